package limit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/limit"
	"github.com/stevedores-org/nix-cache/caddymodule/origin/origintest"
)

// kind takes narinfos for small, listings for large and hasty, all else for large.
func kind(path string) (class limit.Class, hasty bool) {
	if strings.HasSuffix(path, ".narinfo") {
		return limit.Small, false
	}
	return limit.Large, strings.HasSuffix(path, ".ls")
}

func TestConformance(t *testing.T) {
	origintest.Run(t, func(t *testing.T) origin.Origin {
		return limit.New(origintest.NewMemory(), limit.NewBudget(4), kind)
	})
}

// as returns a context on behalf of one of 250 clients.
func as(ctx context.Context, client int) context.Context {
	network := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(client)}), 32)
	return origin.WithAsker(ctx, origin.Asker{Client: network})
}

// take takes a place that is free.
func take(t *testing.T, b *limit.Budget, class limit.Class) *limit.Place {
	t.Helper()
	place, err := b.Take(t.Context(), limit.Request{Class: class})
	if err != nil {
		t.Fatal(err)
	}
	return place
}

// takeAll takes all places that the class can have now.
func takeAll(t *testing.T, b *limit.Budget, class limit.Class) []*limit.Place {
	t.Helper()
	var places []*limit.Place
	for {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		place, err := b.Take(ctx, limit.Request{Class: class})
		if err != nil {
			return places
		}
		places = append(places, place)
	}
}

// TestShares: transfers leave places to small requests, and each kind of them to
// the others.
func TestShares(t *testing.T) {
	for _, tt := range []struct {
		places        int
		small, others int // places left while the others have all they can have
		large, upload int // places each can have of an idle budget
	}{
		{64, 16, 48, 40, 32},
		{8, 2, 6, 5, 4},
		{4, 1, 3, 2, 2},
		{2, 1, 1, 1, 1},
		{1, 0, 1, 1, 1},
	} {
		t.Run(fmt.Sprint(tt.places), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for class, want := range map[limit.Class]int{limit.Small: tt.places, limit.Large: tt.large, limit.Upload: tt.upload} {
					if got := len(takeAll(t, limit.NewBudget(tt.places), class)); got != want {
						t.Errorf("class %d alone can have %d places, want %d", class, got, want)
					}
				}
				b := limit.NewBudget(tt.places)
				others := len(takeAll(t, b, limit.Upload)) + len(takeAll(t, b, limit.Large)) + len(takeAll(t, b, limit.Background))
				if left := len(takeAll(t, b, limit.Small)); others != tt.others || left != tt.small {
					t.Errorf("%d places for transfers and %d for small requests, want %d and %d", others, left, tt.others, tt.small)
				}
			})
		})
	}
}

// TestPlaceIsHeldUntilTheBodyIsClosed, and given back once.
func TestPlaceIsHeldUntilTheBodyIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := origintest.NewMemory()
		m.Put("nar/a.nar", []byte("content"))
		o := limit.New(m, limit.NewBudget(1), kind)
		_, body, err := o.Open(t.Context(), "nar/a.nar", origin.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Stat(t.Context(), "nar/a.nar"); !isBusy(err) {
			t.Errorf("Stat beside an open body: %v, want it to wait and then to be refused", err)
		}
		for range 2 {
			body.Close()
		}
		for _, want := range []bool{true, false} { // the second close gave nothing back
			_, _, err := o.Open(t.Context(), "nar/a.nar", origin.OpenOptions{})
			if got := err == nil; got != want {
				t.Errorf("Open = %v", err)
			}
		}
		if m.Ops("stat") != 0 || o.Waiting() != 0 {
			t.Errorf("%d requests reached the origin, %d wait", m.Ops("stat"), o.Waiting())
		}
	})
}

func isBusy(err error) bool {
	_, ok := errors.AsType[*origin.BusyError](err)
	return ok
}

// queue lets requests wait one after the other, and tells the order in which
// they come to be sent.
type queue struct {
	*testing.T
	budget *limit.Budget
	mu     struct {
		sync.Mutex
		sent []string
		busy []string
	}
}

// join lets a request wait, which is done at once when its turn comes.
func (q *queue) join(client int, r limit.Request) {
	go func() {
		place, err := q.budget.Take(as(q.Context(), client), r)
		q.mu.Lock()
		defer q.mu.Unlock()
		name := fmt.Sprint(client, r.Path)
		if isBusy(err) {
			q.mu.busy = append(q.mu.busy, name)
			return
		}
		q.mu.sent = append(q.mu.sent, name)
		if err == nil {
			go place.GiveBack()
		}
	}()
	synctest.Wait()
}

// TestClientsHaveTurns: whoever asks for much waits for himself, and of the files
// of one client each moves on.
func TestClientsHaveTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBudget(1)
		q := &queue{T: t, budget: b}
		place := take(t, b, limit.Large)
		for range 3 {
			for _, path := range []string{"a", "b"} {
				q.join(1, limit.Request{Class: limit.Large, Path: path})
			}
		}
		q.join(2, limit.Request{Class: limit.Large, Path: "c"})
		q.join(3, limit.Request{Class: limit.Large, Path: "d"})
		if got := b.Waiting(); got != 8 {
			t.Errorf("%d wait, want 8", got)
		}
		place.GiveBack()
		synctest.Wait()
		if want := []string{"1a", "2c", "3d", "1b", "1a", "1b", "1a", "1b"}; !slices.Equal(q.mu.sent, want) {
			t.Errorf("sent %q, want %q", q.mu.sent, want)
		}
		if got := b.Waiting(); got != 0 {
			t.Errorf("%d wait in the end", got)
		}
	})
}

// TestFirstBytesFirst: of what is read of one file.
func TestFirstBytesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBudget(1)
		var mu sync.Mutex
		var sent []int64
		place := take(t, b, limit.Large)
		for _, offset := range []int64{30, 10, 20, 10, 0} {
			go func() {
				place, err := b.Take(t.Context(), limit.Request{Class: limit.Large, Path: "a", Offset: offset, Continues: true})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				sent = append(sent, offset)
				mu.Unlock()
				place.GiveBack()
			}()
			synctest.Wait()
		}
		place.GiveBack()
		synctest.Wait()
		if want := []int64{0, 10, 10, 20, 30}; !slices.Equal(sent, want) {
			t.Errorf("sent %v, want %v", sent, want)
		}
	})
}

// TestTurnsEnd: a slow range leaves its place to those who wait, once it has
// brought something, and not before; one that nobody waits for goes on.
func TestTurnsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mib = 1 << 20
		m := origintest.NewMemory()
		m.Put("nar/a.nar", make([]byte, 8*mib))
		o := limit.New(m, limit.NewBudget(1), kind)
		_, slow, err := o.Open(t.Context(), "nar/a.nar", origin.OpenOptions{Length: 8 * mib})
		if err != nil {
			t.Fatal(err)
		}
		read := func(n int) error {
			<-time.After(19 * time.Second)
			_, err := io.ReadFull(slow, make([]byte, n))
			return err
		}
		if err := errors.Join(read(mib), read(mib), read(mib)); err != nil {
			t.Fatalf("read while nobody waits: %v", err)
		}
		next := make(chan time.Time, 1)
		go func() {
			_, body, err := o.Open(t.Context(), "nar/a.nar", origin.OpenOptions{Length: mib})
			if err != nil {
				t.Error(err)
			}
			next <- time.Now()
			defer body.Close()
			<-time.After(21 * time.Second)
			if _, err := io.Copy(io.Discard, body); err != nil {
				t.Errorf("the next one: %v, want all that it asked for", err)
			}
		}()
		synctest.Wait()
		if err := read(mib); err != nil {
			t.Errorf("read of what was there already: %v", err)
		}
		if got := <-next; time.Since(got) != 0 {
			t.Errorf("the next one waited until %v", got)
		}
		if err := read(1); !errors.Is(err, limit.ErrTurnOver) {
			t.Errorf("read after the turn: %v", err)
		}
		slow.Close()
		<-time.After(time.Minute)
	})
}

// TestClassesHaveTurns: a flood of small requests does not keep the others from
// their places.
func TestClassesHaveTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBudget(1)
		q := &queue{T: t, budget: b}
		place := take(t, b, limit.Small)
		for _, path := range []string{"a", "b", "c"} {
			q.join(1, limit.Request{Class: limit.Small, Path: path})
		}
		q.join(1, limit.Request{Class: limit.Large, Path: "nar"})
		q.join(1, limit.Request{Class: limit.Upload, Path: "part"})
		place.GiveBack()
		synctest.Wait()
		if want := []string{"1a", "1nar", "1part", "1b", "1c"}; !slices.Equal(q.mu.sent, want) {
			t.Errorf("sent %q, want %q", q.mu.sent, want)
		}
	})
}

// TestFullQueue: the newest of the client that has most is refused at once; one
// that continues what has begun is not.
func TestFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBudget(1)
		q := &queue{T: t, budget: b}
		place := take(t, b, limit.Large)
		const room = 2048
		for i := range room {
			q.join(1, limit.Request{Class: limit.Large, Path: fmt.Sprint("-", i)})
		}
		begun := time.Now()
		q.join(1, limit.Request{Class: limit.Large, Path: "-one too many"})
		q.join(1, limit.Request{Class: limit.Large, Path: "-continues", Continues: true})
		q.join(2, limit.Request{Class: limit.Large, Path: "-of another"})
		if want := []string{"1-one too many", fmt.Sprint("1-", room-1)}; !slices.Equal(q.mu.busy, want) || time.Since(begun) != 0 {
			t.Errorf("refused %q after %v, want %q at once", q.mu.busy, time.Since(begun), want)
		}
		if got := b.Waiting(); got != room+1 {
			t.Errorf("%d wait, want %d", got, room+1)
		}
		place.GiveBack()
		synctest.Wait()
		if len(q.mu.sent) != room+1 || !slices.Contains(q.mu.sent, "1-continues") || q.mu.sent[1] != "2-of another" {
			t.Errorf("%d were sent, %q first", len(q.mu.sent), q.mu.sent[:2])
		}
	})
}

// TestManyClients: where each of them has one request, the newcomer is refused.
func TestManyClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBudget(1)
		q := &queue{T: t, budget: b}
		take(t, b, limit.Large)
		for i := range 2048 {
			q.join(i%200, limit.Request{Class: limit.Large, Path: fmt.Sprint("-", i)})
		}
		q.join(201, limit.Request{Class: limit.Large})
		if len(q.mu.busy) != 1 || strings.HasPrefix(q.mu.busy[0], "201") {
			t.Errorf("refused %q, want one of a client that has more", q.mu.busy)
		}
	})
}

// TestWaitsEnd: by time, since nobody wants the answer, since the context ends.
func TestWaitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBudget(1)
		place := take(t, b, limit.Small)
		gone := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(gone) })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		for _, tt := range []struct {
			name    string
			ctx     context.Context
			request limit.Request
			after   time.Duration
			is      func(error) bool
		}{
			{"unwanted", origin.WithAsker(t.Context(), origin.Asker{Gone: gone}), limit.Request{}, time.Second,
				func(err error) bool { return errors.Is(err, origin.ErrUnwanted) }},
			{"ended", ctx, limit.Request{}, time.Second, func(err error) bool {
				unavailable, ok := errors.AsType[*origin.UnavailableError](err)
				return ok && unavailable.Timeout
			}},
			{"small", t.Context(), limit.Request{Class: limit.Small}, 5 * time.Second, isBusy},
			{"large", t.Context(), limit.Request{Class: limit.Large}, 4 * time.Minute, isBusy},
			{"hasty", t.Context(), limit.Request{Class: limit.Large, Hasty: true}, 5 * time.Second, isBusy},
			{"hasty, of what has begun", t.Context(), limit.Request{Class: limit.Large, Hasty: true, Continues: true}, 4 * time.Minute, isBusy},
			{"small, of what has begun", t.Context(), limit.Request{Continues: true}, 4 * time.Minute, isBusy},
		} {
			begun := time.Now()
			_, err := b.Take(tt.ctx, tt.request)
			if took := time.Since(begun); !tt.is(err) || took != tt.after {
				t.Errorf("%s: %v after %v, want %v", tt.name, err, took, tt.after)
			}
		}
		if got := b.Waiting(); got != 0 {
			t.Errorf("%d wait", got)
		}
		place.GiveBack()
		take(t, b, limit.Large).GiveBack()
	})
}

// TestFilesWaitByKind: each as long as kind says, and what goes on with a file as
// long as a transfer.
func TestFilesWaitByKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBudget(1)
		o := limit.New(origintest.NewMemory(), b, kind)
		take(t, b, limit.Large)
		for _, tt := range []struct {
			path, ifMatch string
			after         time.Duration
		}{
			{"a.narinfo", "", 5 * time.Second},
			{"a.ls", "", 5 * time.Second},
			{"a.ls", "1", 4 * time.Minute},
			{"nar/a.nar", "", 4 * time.Minute},
		} {
			begun := time.Now()
			_, _, err := o.Open(t.Context(), tt.path, origin.OpenOptions{IfMatch: tt.ifMatch})
			if took := time.Since(begun); !isBusy(err) || took != tt.after {
				t.Errorf("%s %s: %v after %v, want %v", tt.path, tt.ifMatch, err, took, tt.after)
			}
		}
	})
}

// TestNeverTooMany: requests that come and go at random never have more places
// than there are, and in the end have left all of them.
func TestNeverTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places = 6
		b := limit.NewBudget(places)
		var all, transfers atomic.Int64
		var requests sync.WaitGroup
		for i := range 2000 {
			requests.Go(func() {
				<-time.After(time.Duration(i%37) * time.Millisecond)
				ctx, cancel := context.WithTimeout(as(t.Context(), i%7), time.Duration(i%29)*time.Millisecond)
				defer cancel()
				class := limit.Class(i % 4)
				place, err := b.Take(ctx, limit.Request{Class: class, Path: fmt.Sprint(i % 11)})
				if err != nil {
					return
				}
				defer place.GiveBack()
				if class != limit.Small {
					if n := transfers.Add(1); n > places*3/4 {
						t.Errorf("%d transfers at a time", n)
					}
					defer transfers.Add(-1)
				}
				if n := all.Add(1); n > places {
					t.Errorf("%d requests at a time", n)
				}
				defer all.Add(-1)
				<-time.After(time.Duration(i%5) * time.Millisecond)
			})
		}
		requests.Wait()
		if got := b.Waiting(); got != 0 {
			t.Errorf("%d wait in the end", got)
		}
		if got := len(takeAll(t, b, limit.Small)); got != places {
			t.Errorf("%d places are free in the end, want %d", got, places)
		}
	})
}

func BenchmarkTake(b *testing.B) {
	m := origintest.NewMemory()
	m.Put("a.narinfo", []byte("content"))
	o := limit.New(m, limit.NewBudget(64), kind)
	for b.Loop() {
		_, body, err := o.Open(b.Context(), "a.narinfo", origin.OpenOptions{})
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, body)
		body.Close()
	}
}
