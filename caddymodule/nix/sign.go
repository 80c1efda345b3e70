package nix

import (
	"cmp"
	"slices"
)

// SignWith puts the keys' signatures of n among its Signatures, and reports
// whether that has changed them. Another signature under the name of one of the
// keys goes: it is wrong, or says the same.
//
// Where there are more than [MaxSignatures], others make room, those under
// trusted names last.
func (n *NARInfo) SignWith(keys []PrivateKey, trusted PublicKeys) (changed bool) {
	before := n.signatureTexts()
	own := make([]Signature, len(keys))
	for i, k := range keys {
		own[i] = k.Sign(n)
	}
	var others []Signature
	for _, s := range n.Signatures {
		isOwn := slices.ContainsFunc(own, func(o Signature) bool { return o.KeyName == s.KeyName })
		if !isOwn && !slices.Contains(others, s) {
			others = append(others, s)
		}
	}
	slices.SortStableFunc(others, func(a, b Signature) int {
		return cmp.Compare(trusted.rank(a), trusted.rank(b))
	})
	all := slices.Concat(own, others)
	n.Signatures = all[:min(len(all), MaxSignatures)]
	return !slices.Equal(before, n.signatureTexts())
}

// rank is 0 for a signature under a trusted name, else 1.
func (ks PublicKeys) rank(s Signature) int {
	if _, ok := ks.ByName(s.KeyName); ok {
		return 0
	}
	return 1
}
