package nix

import "slices"

// SignWith puts the keys' signatures of n among its Signatures, and reports
// whether that has changed them. Another signature under the name of one of the
// keys goes: it is wrong, or says the same.
//
// Where there are more than [MaxSignatures], others make room, those under
// trusted names last; and where the text would be longer than [MaxNARInfoSize],
// those under names that are not trusted do. So what anybody can add keeps out
// nothing that clients need.
func (n *NARInfo) SignWith(keys []PrivateKey, trusted PublicKeys) (changed bool) {
	before := n.signatureTexts()
	own := make([]Signature, len(keys))
	for i, k := range keys {
		own[i] = k.Sign(n)
	}
	var vouched, others []Signature
	for _, s := range n.Signatures {
		_, isTrusted := trusted.ByName(s.KeyName)
		switch {
		case slices.ContainsFunc(own, func(o Signature) bool { return o.KeyName == s.KeyName }):
		case isTrusted:
			vouched = appendNew(vouched, s)
		default:
			others = appendNew(others, s)
		}
	}
	n.Signatures = slices.Concat(own, vouched)
	n.Signatures = n.Signatures[:min(len(n.Signatures), MaxSignatures)]
	n.addWithinLimits(others)
	return !slices.Equal(before, n.signatureTexts())
}

func appendNew(sigs []Signature, s Signature) []Signature {
	if slices.Contains(sigs, s) {
		return sigs
	}
	return append(sigs, s)
}

// addWithinLimits adds those signatures that n has room for, the first ones first.
func (n *NARInfo) addWithinLimits(sigs []Signature) {
	if len(sigs) == 0 {
		return
	}
	text, err := n.MarshalText()
	if err != nil {
		return // it has no room as it is
	}
	room := MaxNARInfoSize - len(text)
	for _, s := range sigs {
		size := len("\nSig: ") + len(s.String())
		if len(n.Signatures) < MaxSignatures && size <= room {
			n.Signatures = append(n.Signatures, s)
			room -= size
		}
	}
}
