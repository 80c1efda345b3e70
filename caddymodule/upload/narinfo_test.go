package upload

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
	"github.com/stevedores-org/nix-cache/caddymodule/nix/nixtest"
	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// relabeled is a signature under the name of another key.
func relabeled(name string, by nix.PrivateKey) nixtest.Option {
	return func(p *nixtest.Package) {
		sig := by.Sign(p.NARInfo)
		sig.KeyName = name
		p.NARInfo.Signatures = append(p.NARInfo.Signatures, sig)
	}
}

func replaced(p nixtest.Package, old, new string) []byte {
	text := strings.Replace(string(p.Text()), old, new, 1)
	if text == string(p.Text()) {
		panic("nothing to replace")
	}
	return []byte(text)
}

func TestRejectedNARInfos(t *testing.T) {
	p := signed("hello", 1000)
	text := p.Text()
	line := func(field string) string {
		_, rest, _ := strings.Cut(string(text), field+": ")
		value, _, _ := strings.Cut(rest, "\n")
		return field + ": " + value + "\n"
	}
	for _, test := range []struct {
		name string
		text []byte
		want Reason
	}{
		{"empty", nil, Malformed},
		{"not a narinfo", []byte("<html>\n"), Malformed},
		{"without its end", text[:len(text)-1], Malformed},
		{"of another store path", signed("other", 1000).Text(), Malformed},
		{"with a second URL", append(bytes.Clone(text), line("URL")...), Malformed},
		{"with an unknown field", append(bytes.Clone(text), "Evil: 1\n"...), Malformed},
		{"with a URL elsewhere", replaced(p, "URL: nar/", "URL: ../nar/"), Malformed},
		{"with a compression that is none", replaced(p, "Compression: none", "Compression: rar"), Malformed},
		{"with a compression that its URL has not", replaced(p, "Compression: none", "Compression: xz"), Malformed},
		{"of more than the limit", append(bytes.Clone(text), bytes.Repeat([]byte("Sig: x\n"), 1<<18)...), TooLarge},
		{"unsigned", nixtest.NewPackage("hello", 1000).Text(), Untrusted},
		{"signed by a stranger", nixtest.NewPackage("hello", 1000, nixtest.SignedBy(foreign)).Text(), Untrusted},
		{"signed by a stranger in a trusted name", nixtest.NewPackage("hello", 1000, relabeled("test-1", foreign)).Text(), Untrusted},
		{"with a wrong signature beside a right one", nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key1), relabeled("test-2", foreign)).Text(), Untrusted},
		{"changed after it was signed", nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key1), nixtest.References(nixtest.StorePath("evil-1"))).Text(), Untrusted},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, m := newReceiver()
			push(t, m, p)
			wantRejected(t, r, infoPath(p), announced(test.text), test.want)
			wantRejected(t, r, infoPath(p), chunked(test.text), test.want)
		})
	}
}

func TestNARInfoNeedsItsNAR(t *testing.T) {
	p := signed("hello", 1000)
	r, m := newReceiver()
	wantRejected(t, r, infoPath(p), announced(p.Text()), NARMissing)
	m.Put(p.NARInfo.URL(), p.File[1:])
	wantRejected(t, r, infoPath(p), announced(p.Text()), Mismatch)
}

func TestWithoutTrustedKeysNothingIsChecked(t *testing.T) {
	r, m := newReceiver()
	r.TrustedKeys = nix.PublicKeys{}
	p := nixtest.NewPackage("hello", 1000)
	wantOutcome(t, r, infoPath(p), push(t, m, p), Stored)
}

// TestWhatIsStoredIsOurs: another spelling of the same narinfo.
func TestWhatIsStoredIsOurs(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 1000)
	push(t, m, p)
	lines := strings.SplitAfter(string(p.Text()), "\n")
	slices.Reverse(lines)
	spelled := strings.Join(lines, "") + "System: x86_64-linux\nDeriver: unknown-deriver\n"
	wantOutcome(t, r, infoPath(p), announced([]byte(spelled)), Stored)
	wantStored(t, m, infoPath(p).String(), p.Text())
	wantOutcome(t, r, infoPath(p), announced([]byte(spelled)), Unchanged)
}

func TestSignaturesAreMerged(t *testing.T) {
	by := func(options ...nixtest.Option) nixtest.Package { return nixtest.NewPackage("hello", 1000, options...) }
	one, two := nixtest.SignedBy(key1), nixtest.SignedBy(key2)
	stranger := nixtest.SignedBy(foreign)
	for _, test := range []struct {
		name          string
		there, upload nixtest.Package
		want          nixtest.Package
		outcome       Outcome
	}{
		{"second key", by(one), by(two), by(one, two), Stored},
		{"second key, other order", by(two), by(one), by(one, two), Stored},
		{"both, of which one is there", by(one), by(one, two), by(one, two), Stored},
		{"one, of which both are there", by(one, two), by(one), by(one, two), Unchanged},
		{"nothing that was there is lost", by(stranger), by(one), by(one, stranger), Stored},
		{"to an unsigned one", by(), by(one), by(one), Stored},
		{"a wrong one does not stay", by(relabeled("test-1", foreign)), by(two), by(two), Stored},
		{"a divergent one stays", nixtest.NewPackage("hello", 999, one), by(one, two), nixtest.NewPackage("hello", 999, one), Kept},
		{"a divergent one that nobody trusts does not", nixtest.NewPackage("hello", 999), by(one), by(one), Stored},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, m := newReceiver()
			push(t, m, test.there)
			m.Put(infoPath(test.there).String(), test.there.Text())
			m.ResetOps()
			wantOutcome(t, r, infoPath(test.upload), push(t, m, test.upload), test.outcome)
			wantStored(t, m, infoPath(test.upload).String(), test.want.Text())
			again := Unchanged
			if test.outcome == Kept {
				again = Kept
			}
			wantOutcome(t, r, infoPath(test.upload), announced(test.upload.Text()), again)
		})
	}
}

func TestMergeOperations(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 1000)
	body := push(t, m, p)
	m.Put(infoPath(p).String(), nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key2)).Text())
	wantOutcome(t, r, infoPath(p), body, Stored)
	wantOps(t, m, "stat 1 open 1 create 2 commit 2")
}

// many returns a package with n signatures by strangers, and those by keys.
func many(n int, keys ...nix.PrivateKey) nixtest.Package {
	var options []nixtest.Option
	for i := range n {
		options = append(options, nixtest.SignedBy(nixtest.NewKey(fmt.Sprint("stranger-", i))))
	}
	for _, key := range keys {
		options = append(options, nixtest.SignedBy(key))
	}
	return nixtest.NewPackage("hello", 1000, options...)
}

// wantVouched fails unless the narinfo stored at a path has valid signatures by
// all keys, and so many signatures.
func wantVouched(t *testing.T, m *origintest.Memory, path nix.CachePath, signatures int, keys ...nix.PrivateKey) {
	t.Helper()
	text, _ := m.Get(path.String())
	n, err := nix.ParseNARInfo(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(n.Signatures) != signatures {
		t.Errorf("%d signatures, want %d", len(n.Signatures), signatures)
	}
	for _, key := range keys {
		if _, err := nixtest.Trust(key).Verify(n); err != nil {
			t.Error(err)
		}
	}
}

// TestStrangersAreTakenOnceOnly: who comes first may send signatures that nobody
// vouches for, but nobody can add some to what is stored.
func TestStrangersAreTakenOnceOnly(t *testing.T) {
	r, m := newReceiver()
	first, junk := many(2, key1), many(nix.MaxSignatures-1, key1)
	wantOutcome(t, r, infoPath(first), push(t, m, first), Stored)
	wantOutcome(t, r, infoPath(first), announced(junk.Text()), Unchanged)
	wantStored(t, m, infoPath(first).String(), first.Text())
	wantOutcome(t, r, infoPath(first), announced(many(50, key2).Text()), Stored)
	wantStored(t, m, infoPath(first).String(), many(2, key1, key2).Text())
}

// TestWithoutTrustedKeysAllSignaturesAreMerged: as far as there is room.
func TestWithoutTrustedKeysAllSignaturesAreMerged(t *testing.T) {
	r, m := newReceiver()
	r.TrustedKeys = nix.PublicKeys{}
	full := many(nix.MaxSignatures-1, key1)
	wantOutcome(t, r, infoPath(full), push(t, m, many(0, key1)), Stored)
	wantOutcome(t, r, infoPath(full), announced(full.Text()), Stored)
	wantStored(t, m, infoPath(full).String(), full.Text())
	wantOutcome(t, r, infoPath(full), announced(many(0, key2).Text()), Unchanged)
}

// TestStrangersMakeRoom for signatures that help clients: by their number.
func TestStrangersMakeRoom(t *testing.T) {
	for name, full := range map[string]nixtest.Package{
		"beside a trusted one": many(nix.MaxSignatures-1, key1),
		"strangers alone":      many(nix.MaxSignatures),
	} {
		t.Run(name, func(t *testing.T) {
			r, m := newSigner(ours)
			p := many(0, key1, key2)
			m.Put(infoPath(full).String(), full.Text())
			wantOutcome(t, r, infoPath(p), push(t, m, p), Stored)
			wantVouched(t, m, infoPath(p), nix.MaxSignatures, key1, key2, ours)
			wantOutcome(t, r, infoPath(p), announced(p.Text()), Unchanged)
		})
	}
}

// TestStrangersMakeRoomInTheText: by their bytes, too.
func TestStrangersMakeRoomInTheText(t *testing.T) {
	long := nixtest.SignedBy(nixtest.NewKey(strings.Repeat("s", 255)))
	filled := func(options ...nixtest.Option) nixtest.Package {
		return hello(append([]nixtest.Option{nixtest.Filled(470)}, options...)...)
	}
	one, two := nixtest.SignedBy(key1), nixtest.SignedBy(key2)
	r, m := newSigner(ours)
	first := filled(one, long)
	m.Put(infoPath(first).String(), first.Text())
	second := filled(two)
	wantOutcome(t, r, infoPath(second), push(t, m, second), Stored)
	wantStored(t, m, infoPath(second).String(), filled(one, two, nixtest.SignedBy(ours)).Text())
	wantOutcome(t, r, infoPath(second), announced(second.Text()), Unchanged)
}

// TestTooLongTogether: two narinfos whose trusted signatures together are more
// than a narinfo has room for.
func TestTooLongTogether(t *testing.T) {
	r, m := newReceiver()
	first := hello(nixtest.Filled(150), nixtest.SignedBy(key1))
	second := hello(nixtest.Filled(150), nixtest.SignedBy(key2))
	wantOutcome(t, r, infoPath(first), push(t, m, first), Stored)
	wantOutcome(t, r, infoPath(second), announced(second.Text()), Unchanged)
	wantStored(t, m, infoPath(first).String(), first.Text())
}

func TestANARThatIsGoneGivesWay(t *testing.T) {
	r, m := newReceiver()
	raw := signed("hello", 1000)
	packed := nixtest.NewPackage("hello", 1000, nixtest.Compressed(nix.CompressionZstd, nixtest.Zstd), nixtest.SignedBy(key2))
	push(t, m, raw)
	m.Put(infoPath(raw).String(), raw.Text())

	wantOutcome(t, r, infoPath(packed), push(t, m, packed), Stored)
	got, _ := m.Get(infoPath(raw).String())
	if n, err := nix.ParseNARInfo(got); err != nil || n.URL() != raw.NARInfo.URL() || len(n.Signatures) != 2 {
		t.Errorf("while its NAR is there, the first narinfo stays and gains signatures; got\n%s", got)
	}
	m.Remove(raw.NARInfo.URL())
	wantOutcome(t, r, infoPath(packed), announced(packed.Text()), Stored)
	got, _ = m.Get(infoPath(raw).String())
	if n, err := nix.ParseNARInfo(got); err != nil || n.URL() != packed.NARInfo.URL() || len(n.Signatures) != 2 {
		t.Errorf("its NAR is gone: the narinfo should point to the one that is there; got\n%s", got)
	}
}

func TestAMalformedNARInfoIsReplaced(t *testing.T) {
	p := signed("hello", 1000)
	for _, there := range [][]byte{nil, []byte("x"), signed("other", 1).Text(), make([]byte, 3*nix.MaxNARInfoSize)} {
		r, m := newReceiver()
		m.Put(infoPath(p).String(), there)
		wantOutcome(t, r, infoPath(p), push(t, m, p), Stored)
		wantStored(t, m, infoPath(p).String(), p.Text())
	}
}

// TestRaces has other writers come between reading and writing.
func TestRaces(t *testing.T) {
	one := signed("hello", 1000)
	two := nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key2))
	both := nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key1), nixtest.SignedBy(key2))
	path := infoPath(one).String()
	for _, test := range []struct {
		name    string
		between []func(m *origintest.Memory) // before each commit
		outcome Outcome
		want    nixtest.Package
	}{
		{"the same one comes first", []func(m *origintest.Memory){
			func(m *origintest.Memory) { m.Put(path, one.Text()) },
		}, Unchanged, one},
		{"another signature comes first", []func(m *origintest.Memory){
			func(m *origintest.Memory) { m.Put(path, two.Text()) },
		}, Stored, both},
		{"it changes while it is merged", []func(m *origintest.Memory){
			func(m *origintest.Memory) { m.Put(path, []byte("x")) },
			func(m *origintest.Memory) { m.Put(path, two.Text()) },
		}, Stored, both},
		{"it goes while it is merged", []func(m *origintest.Memory){
			func(m *origintest.Memory) { m.Put(path, two.Text()) },
			func(m *origintest.Memory) { m.Remove(path) },
		}, Stored, one},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, m := newReceiver()
			body := push(t, m, one)
			commits := 0
			m.OnCommit(func(string) error {
				if commits < len(test.between) {
					test.between[commits](m)
				}
				commits++
				return nil
			})
			wantOutcome(t, r, infoPath(one), body, test.outcome)
			wantStored(t, m, path, test.want.Text())
		})
	}
}

func TestRacesEnd(t *testing.T) {
	r, m := newReceiver()
	p := signed("hello", 1000)
	body := push(t, m, p)
	m.OnCommit(func(path string) error {
		m.Put(path, []byte("somebody else's"))
		return nil
	})
	var unavailable *origin.UnavailableError
	if _, err := r.Receive(t.Context(), infoPath(p), body); !errors.As(err, &unavailable) {
		t.Errorf("error: %v, want *origin.UnavailableError", err)
	}
	if got := m.Ops("commit"); got != 1+maxRaces {
		t.Errorf("%d attempts", got)
	}
}

// TestTheLastErrorIsTold: a time-out of the origin in the last attempt is no race.
func TestTheLastErrorIsTold(t *testing.T) {
	for last := range 1 + maxRaces {
		r, m := newReceiver()
		p := signed("hello", 1000)
		body := push(t, m, p)
		commits := 0
		m.OnCommit(func(path string) error {
			if commits == last {
				return origintest.TimedOut("commit", path)
			}
			commits++
			m.Put(path, []byte("somebody else's"))
			return nil
		})
		var unavailable *origin.UnavailableError
		_, err := r.Receive(t.Context(), infoPath(p), body)
		if !errors.As(err, &unavailable) || !unavailable.Timeout {
			t.Errorf("attempt %d: %v, want the origin's time-out", last, err)
		}
	}
}

func TestConcurrentUploadersOfOneNARInfo(t *testing.T) {
	r, m := newReceiver()
	one := signed("hello", 1000)
	two := nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key2))
	push(t, m, one)
	const n = 4
	done := make(chan error)
	for i := range n {
		text := []nixtest.Package{one, two}[i%2].Text()
		go func() {
			_, err := r.Receive(t.Context(), infoPath(one), announced(text))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	wantStored(t, m, infoPath(one).String(),
		nixtest.NewPackage("hello", 1000, nixtest.SignedBy(key1), nixtest.SignedBy(key2)).Text())
}

// FuzzReceiveNARInfo: whatever is stored is canonical, of its path, and signed
// by a trusted key.
func FuzzReceiveNARInfo(f *testing.F) {
	p := signed("hello", 1000)
	for encoding, encode := range encoders {
		f.Add(encode(p.Text()), encoding)
		f.Add(encode(many(2, key2).Text()), encoding)
		f.Add(encode(nixtest.NewPackage("hello", 1000).Text()), encoding)
		f.Add(encode(replaced(p, "Sig: ", "CA: ")), encoding)
	}
	f.Add([]byte("garbage"), "deflate")
	f.Fuzz(func(t *testing.T, body []byte, encoding string) {
		r, m := newReceiver()
		push(t, m, p)
		outcome, err := r.Receive(t.Context(), infoPath(p), encoded(encoding, body))
		var rejected *RejectedError
		text, stored := m.Get(infoPath(p).String())
		if errors.As(err, &rejected) == stored || (err == nil) != (outcome == Stored) {
			t.Fatalf("Receive = %q, %v, and stored is %v", outcome, err, stored)
		}
		if !stored {
			return
		}
		n, err := nix.ParseNARInfo(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.TrustedKeys.Verify(n); err != nil {
			t.Error(err)
		}
		if again, err := n.MarshalText(); err != nil || !bytes.Equal(again, text) {
			t.Errorf("stored is\n%s\nand canonical, %v,\n%s", text, err, again)
		}
		if nix.NARInfoPath(n.StorePath) != infoPath(p) || n.URL() != p.NARInfo.URL() {
			t.Errorf("stored is another narinfo:\n%s", text)
		}
	})
}
