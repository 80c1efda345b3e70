package upload

import (
	"context"
	"testing"
	"testing/synctest"
)

// TestOneNARFromManyClients: those that are ready at one time are one write, and
// one that fails takes no other with it.
func TestOneNARFromManyClients(t *testing.T) {
	for name, first := range map[string]struct {
		gone bool
		ops  string
	}{
		"all stay":           {false, "stat 8 create 8 commit 1 abort 7"},
		"the first one goes": {true, "stat 8 create 8 commit 2 abort 6"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, m := newReceiver()
				p := signed("hello", 1000)
				gate := m.Hold("commit", p.NARInfo.URL())
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				outcomes := make(chan Outcome, 8)
				receive := func(ctx context.Context) {
					outcome, _ := r.Receive(ctx, p.NARInfo.NARPath(), announced(p.File))
					outcomes <- outcome
				}
				go receive(ctx)
				<-gate.Reached()
				for range cap(outcomes) - 1 {
					go receive(t.Context())
				}
				synctest.Wait()
				if first.gone {
					leave()
					synctest.Wait()
				}
				gate.Release()
				count := map[Outcome]int{}
				for range cap(outcomes) {
					count[<-outcomes]++
				}
				if gone := count[""]; count[Stored] != 1 || gone != map[bool]int{true: 1}[first.gone] {
					t.Errorf("outcomes %v, want one stored and the others unchanged", count)
				}
				wantOps(t, m, first.ops)
				wantStored(t, m, p.NARInfo.URL(), p.File)
			})
		})
	}
}
