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
// trusted names last. With no keys at all it does just that.
func (n *NARInfo) SignWith(keys []PrivateKey, trusted PublicKeys) (changed bool) {
	before := n.signatureTexts()
	own := make([]Signature, len(keys))
	for i, k := range keys {
		own[i] = k.Sign(n)
	}
	others := slices.DeleteFunc(slices.Clone(n.Signatures), func(s Signature) bool {
		return slices.ContainsFunc(own, func(o Signature) bool { return o.KeyName == s.KeyName })
	})
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
