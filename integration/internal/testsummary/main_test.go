package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const (
		start  = `{"Action":"start","Package":"p"}` + "\n"
		a      = `{"Action":"run","Package":"p","Test":"A"}` + "\n"
		aSays  = `{"Action":"output","Package":"p","Test":"A","Output":"A says\n"}` + "\n"
		aPass  = `{"Action":"pass","Package":"p","Test":"A","Elapsed":0.1}` + "\n"
		aFail  = `{"Action":"fail","Package":"p","Test":"A","Elapsed":0.1}` + "\n"
		aSkip  = `{"Action":"skip","Package":"p","Test":"A"}` + "\n"
		b      = `{"Action":"run","Package":"p","Test":"B"}` + "\n"
		bPass  = `{"Action":"pass","Package":"p","Test":"B"}` + "\n"
		bSlow  = `{"Action":"pass","Package":"p","Test":"B","Elapsed":12.34}` + "\n"
		pass   = `{"Action":"pass","Package":"p"}` + "\n"
		fail   = `{"Action":"fail","Package":"p"}` + "\n"
		ended  = `{"Action":"go-test-failed"}` + "\n"
		broken = `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: no\n"}` + "\n"
	)
	for name, test := range map[string]struct {
		events, last string
		good         bool
		shown        string
	}{
		"all pass":           {start + a + aSays + aPass + b + bPass + pass, "2 passed, 0 failed", true, ""},
		"one is slow":        {start + a + aPass + b + bSlow + pass, "2 passed, 0 failed", true, "  12.3s B\n"},
		"one fails":          {start + a + aSays + aFail + b + bPass + fail, "1 passed, 1 failed", false, "A says"},
		"skipped":            {start + a + aSkip + b + bPass + pass, "1 passed, 0 failed, 1 skipped", true, ""},
		"crash":              {start + a + aSays + fail, "0 passed, 1 failed", false, "A says"},
		"build fails":        {broken + start + fail, "0 passed, 1 failed", false, "p.go:1: no"},
		"only skipped":       {start + a + aSkip + pass, "0 passed, 0 failed, 1 skipped", false, ""},
		"nothing ran":        {"", "0 passed, 0 failed", false, ""},
		"go test itself":     {start + a + aPass + pass + ended, "1 passed, 1 failed", false, ""},
		"go test and a test": {start + a + aFail + fail + ended, "0 passed, 1 failed", false, ""},
		"not from a test":    {"no such package\n", "0 passed, 0 failed", false, "no such package"},
		"package by itself":  {start + a + aPass + fail, "1 passed, 1 failed", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			s := newSummary(&out)
			if err := s.read(strings.NewReader(test.events)); err != nil {
				t.Fatal(err)
			}
			if good := s.finish(); good != test.good {
				t.Errorf("good is %v, want %v", good, test.good)
			}
			text := strings.TrimSuffix(out.String(), "\n")
			if last := text[strings.LastIndex(text, "\n")+1:]; last != test.last {
				t.Errorf("last line %q, want %q", last, test.last)
			}
			if !strings.Contains(text, test.shown) {
				t.Errorf("%q is not shown in\n%s", test.shown, text)
			}
		})
	}
}
