package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
)

// fail has an address fail and returns how long its answer takes.
func fail(t *testing.T, throttle *Throttle, from netip.Addr) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := throttle.Failed(t.Context(), from); err != nil {
		t.Errorf("Failed: %v", err)
	}
	return time.Since(begin)
}

// provoke has an address fail until its answers take longest.
func provoke(t *testing.T, throttle *Throttle, from netip.Addr) {
	t.Helper()
	for range 100 {
		if fail(t, throttle, from) > longestDelay-delayStep {
			return
		}
	}
	t.Error("answers don't get slower")
}

// TestSuspects: failures that are answered at once count, and are forgiven.
func TestSuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := new(Throttle)
		for i := range freeFailures {
			if throttle.Suspects(here) {
				t.Errorf("suspected after %d failures", i)
			}
			throttle.Count(here)
		}
		if !throttle.Suspects(here) || throttle.Suspects(there) {
			t.Errorf("here %v, there %v; want here alone", throttle.Suspects(here), throttle.Suspects(there))
		}
		if delay := fail(t, throttle, here); delay == 0 {
			t.Error("the next failure is not delayed")
		}
		time.Sleep(10 * halfLife)
		if throttle.Suspects(here) {
			t.Error("nothing is forgiven")
		}
	})
}

func TestThrottleGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := new(Throttle)
		for i := range freeFailures {
			if delay := fail(t, throttle, here); delay != 0 {
				t.Errorf("failure %d is delayed by %v", i+1, delay)
			}
		}
		last := time.Duration(0)
		for range 10 {
			delay := fail(t, throttle, here)
			if delay <= last || delay > last+delayStep {
				t.Errorf("after %v comes a delay of %v", last, delay)
			}
			last = delay
		}
		for range 1000 {
			last = fail(t, throttle, here)
		}
		if last > longestDelay || last < longestDelay-delayStep {
			t.Errorf("after a thousand failures the delay is %v, want %v", last, longestDelay)
		}
		if delay := fail(t, throttle, there); delay != 0 {
			t.Errorf("another address is delayed by %v", delay)
		}
	})
}

func TestThrottleForgives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := new(Throttle)
		for range 200 {
			fail(t, throttle, here)
		}
		<-time.After(halfLife)
		if delay := fail(t, throttle, here); delay == 0 || delay >= longestDelay {
			t.Errorf("after a minute the delay is %v", delay)
		}
		<-time.After(3 * halfLife)
		if delay := fail(t, throttle, here); delay != 0 {
			t.Errorf("after four minutes the delay is %v", delay)
		}
		<-time.After(100 * halfLife)
		for i := range freeFailures {
			if delay := fail(t, throttle, here); delay != 0 {
				t.Errorf("after all is forgiven, failure %d is delayed by %v", i+1, delay)
			}
		}
	})
}

func TestThrottleTakesNetworksForOne(t *testing.T) {
	for _, test := range []struct {
		one, other string
		same       bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8:0:1::1", "2001:db8:0:1:ffff::", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
		{"::192.0.2.1", "192.0.2.1", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			throttle := new(Throttle)
			provoke(t, throttle, netip.MustParseAddr(test.one))
			if delayed := fail(t, throttle, netip.MustParseAddr(test.other)) > 0; delayed != test.same {
				t.Errorf("%s after %s: delayed %v, want %v", test.other, test.one, delayed, test.same)
			}
		})
	}
}

func TestThrottleWithoutAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		provoke(t, new(Throttle), netip.Addr{})
	})
}

func TestThrottleLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := new(Throttle)
		provoke(t, throttle, here)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if err := throttle.Failed(ctx, here); err != nil || time.Since(begin) != time.Second {
			t.Errorf("Failed: %v after %v; want to be let go with the context", err, time.Since(begin))
		}
	})
}

// TestThrottleBoundsTheWaiting, of an address and in all.
func TestThrottleBoundsTheWaiting(t *testing.T) {
	for _, test := range []struct {
		name      string
		addresses int
		want      int
	}{
		{"of one address", 1, mostWaitingEach},
		{"in all", 2 * mostWaiting / mostWaitingEach, mostWaiting},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				throttle := new(Throttle)
				address := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprint("192.0.2.", i)) }
				var provoked sync.WaitGroup
				for i := range test.addresses {
					provoked.Go(func() { provoke(t, throttle, address(i)) })
				}
				provoked.Wait()
				begin, results := time.Now(), make(chan error)
				for i := range test.addresses {
					for range 2 * mostWaitingEach {
						go func() { results <- throttle.Failed(t.Context(), address(i)) }()
					}
				}
				waited := 0
				for range test.addresses * 2 * mostWaitingEach {
					switch err := <-results; {
					case err == nil:
						waited++
					case !errors.Is(err, ErrThrottled):
						t.Error(err)
					case time.Since(begin) > 0:
						t.Errorf("one that can't wait is told so after %v", time.Since(begin))
					}
				}
				if waited != test.want || time.Since(begin) > longestDelay {
					t.Errorf("%d waited, for up to %v; want %d for %v", waited, time.Since(begin), test.want, longestDelay)
				}
				if fail(t, throttle, address(0)) == 0 {
					t.Error("who was not let wait is forgiven")
				}
			})
		})
	}
}

// TestThrottleForgetsAddresses: there is room for so many, and an attack from
// others does not wash the worst away.
func TestThrottleForgetsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := new(Throttle)
		provoke(t, throttle, here)
		for i := range 10 * mostSuspects {
			fail(t, throttle, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).Next())
			fail(t, throttle, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		}
		if n := len(throttle.mu.suspects); n > mostSuspects {
			t.Errorf("%d addresses are remembered, want at most %d", n, mostSuspects)
		}
		if fail(t, throttle, here) == 0 {
			t.Error("the address that failed most is forgotten")
		}
	})
}
