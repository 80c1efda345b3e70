package nix

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseNARInfo is the gate for narinfos that others wrote. It takes what every
// Nix client reads as the same narinfo, and nothing that has two readings:
// lines `Name: value`, each with its newline, known fields only, each once but
// Sig, and every value spelled as Nix spells it. URL must be what [NARInfo.URL]
// returns, CA must lead to StorePath, and with Compression none file and NAR
// must be the same.
//
// The fields may come in any order, and so may the signatures, equal ones
// being merged. The lines `System: …` and `Deriver: unknown-deriver`, which other
// writers have, are dropped.
//
// The error is one line of less than 300 bytes, fit for the uploader. It does
// not tell whether signatures are right: [PublicKeys.Verify] does.
func ParseNARInfo(text []byte) (*NARInfo, error) {
	n, err := parseNARInfo(text)
	if err != nil {
		return nil, fmt.Errorf("parse narinfo: %w", err)
	}
	return n, nil
}

func parseNARInfo(text []byte) (*NARInfo, error) {
	if len(text) > MaxNARInfoSize {
		return nil, fmt.Errorf("%w, got %d", errNARInfoSize, len(text))
	}
	s := string(text)
	if err := checkText(s); err != nil {
		return nil, err
	}
	p := narInfoParser{n: new(NARInfo)}
	for number := 1; s != ""; number++ {
		var line string
		line, s, _ = strings.Cut(s, "\n")
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	return p.finish()
}

// checkText takes UTF-8 text of printable characters and newlines, with a
// newline at its end.
func checkText(s string) error {
	if !strings.HasSuffix(s, "\n") {
		return errors.New("expected a newline at the end")
	}
	if isPrintableASCII(s) {
		return nil
	}
	if !utf8.ValidString(s) {
		return errors.New("expected UTF-8")
	}
	i := strings.IndexFunc(s, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
	if i < 0 {
		return nil
	}
	r, _ := utf8.DecodeRuneInString(s[i:])
	return fmt.Errorf("line %d: expected printable characters, got %U", 1+strings.Count(s[:i], "\n"), r)
}

func isPrintableASCII(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\n') || c > '~' {
			return false
		}
	}
	return true
}

// narInfoParser holds what has been read.
type narInfoParser struct {
	n    *NARInfo
	url  string
	sigs []string
	seen uint // bit i: narInfoFields[i] was there
}

// occurrence says how often a field may be there.
type occurrence uint8

const (
	required occurrence = iota
	optional
	repeated
)

// narInfoFields are the lines of a narinfo.
var narInfoFields = [...]struct {
	name       string
	occurrence occurrence
	parse      func(p *narInfoParser, value string) error
}{
	{"StorePath", required, (*narInfoParser).storePath},
	{"URL", required, (*narInfoParser).setURL},
	// Nix takes a narinfo without it to be compressed with bzip2.
	{"Compression", required, (*narInfoParser).compression},
	{"FileHash", required, (*narInfoParser).fileHash},
	{"FileSize", required, (*narInfoParser).fileSize},
	{"NarHash", required, (*narInfoParser).narHash},
	{"NarSize", required, (*narInfoParser).narSize},
	{"References", required, (*narInfoParser).references},
	{"Deriver", optional, (*narInfoParser).deriver},
	{"System", optional, (*narInfoParser).system},
	{"Sig", repeated, (*narInfoParser).signature},
	{"CA", optional, (*narInfoParser).contentAddress},
}

func (p *narInfoParser) line(line string) error {
	name, value, ok := strings.Cut(line, ": ")
	if !ok {
		return fmt.Errorf(`expected "Name: value", got %s`, quote(line))
	}
	for i := range narInfoFields {
		if narInfoFields[i].name == name {
			return p.field(i, value)
		}
	}
	return fmt.Errorf("expected a field of a narinfo, got %s", quote(name))
}

func (p *narInfoParser) field(i int, value string) error {
	f := &narInfoFields[i]
	if p.seen&(1<<i) != 0 && f.occurrence != repeated {
		return fmt.Errorf("%s: expected it once", f.name)
	}
	p.seen |= 1 << i
	if err := f.parse(p, value); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

func (p *narInfoParser) finish() (*NARInfo, error) {
	for i := range narInfoFields {
		if f := &narInfoFields[i]; f.occurrence == required && p.seen&(1<<i) == 0 {
			return nil, fmt.Errorf("%s: expected it, got no such line", f.name)
		}
	}
	if err := p.finishSignatures(); err != nil {
		return nil, err
	}
	if want := p.n.URL(); p.url != want {
		return nil, fmt.Errorf("URL: expected %s, got %s", want, quote(p.url))
	}
	if err := p.n.check(); err != nil {
		return nil, err
	}
	return p.n, nil
}

// finishSignatures sorts as Nix does, by the bytes of the text.
func (p *narInfoParser) finishSignatures() error {
	slices.Sort(p.sigs)
	p.sigs = slices.Compact(p.sigs)
	for _, text := range p.sigs {
		sig, err := parseSignature(text)
		if err != nil {
			return fmt.Errorf("Sig: %w", err)
		}
		p.n.Signatures = append(p.n.Signatures, sig)
	}
	return nil
}

func (p *narInfoParser) storePath(value string) (err error) {
	p.n.StorePath, err = parseStorePath(value)
	return err
}

// setURL keeps the URL until the fields it follows from are known.
func (p *narInfoParser) setURL(value string) error {
	p.url = value
	return nil
}

func (p *narInfoParser) compression(value string) (err error) {
	p.n.Compression, err = parseCompression(value)
	return err
}

func (p *narInfoParser) fileHash(value string) (err error) {
	p.n.FileHash, err = parseSHA256(value)
	return err
}

func (p *narInfoParser) fileSize(value string) (err error) {
	p.n.FileSize, err = parseSize(value)
	return err
}

func (p *narInfoParser) narHash(value string) (err error) {
	p.n.NARHash, err = parseSHA256(value)
	return err
}

func (p *narInfoParser) narSize(value string) (err error) {
	p.n.NARSize, err = parseSize(value)
	return err
}

// parseSize parses a number of bytes above 0, in decimal digits.
func parseSize(s string) (int64, error) {
	size, err := strconv.ParseInt(s, 10, 64)
	if err != nil || s[0] < '1' || s[0] > '9' {
		return 0, fmt.Errorf("expected a decimal number from 1 to 2^63-1, got %s", quote(s))
	}
	return size, nil
}

func (p *narInfoParser) references(value string) error {
	if value == "" {
		return nil
	}
	p.n.References = make([]StorePath, 0, 1+strings.Count(value, " "))
	for base := range strings.SplitSeq(value, " ") {
		ref, err := parseStorePathBase(base)
		if err != nil {
			return err
		}
		p.n.References = append(p.n.References, ref)
	}
	if !isSortedSet(p.n.References) {
		return errors.New("expected them sorted and each once")
	}
	return nil
}

func (p *narInfoParser) deriver(value string) (err error) {
	if value == "unknown-deriver" {
		return nil
	}
	p.n.Deriver, err = parseStorePathBase(value)
	return err
}

// system drops a field that only old versions of Nix wrote.
func (p *narInfoParser) system(string) error { return nil }

func (p *narInfoParser) signature(value string) error {
	if len(p.sigs) == MaxSignatures {
		return errSignatures
	}
	p.sigs = append(p.sigs, value)
	return nil
}

func (p *narInfoParser) contentAddress(value string) (err error) {
	p.n.CA, err = parseContentAddress(value)
	return err
}
