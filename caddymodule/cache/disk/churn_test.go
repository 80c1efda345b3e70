package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	childDir   = "DISK_TEST_CHILD_DIR"
	churnLimit = MinBytes + 24*mib
	churnKeys  = 600
)

// churnKey returns a key and its size: most are small, some are large.
func churnKey(i int) (key string, size int) {
	r := rand.New(rand.NewPCG(uint64(i), 1))
	switch r.IntN(8) {
	case 0:
		size = r.IntN(3 * mib)
	case 1, 2:
		size = r.IntN(200 << 10)
	default:
		size = r.IntN(6 << 10)
	}
	return fmt.Sprintf("key%d", i), size
}

// churn does n random things to the tier, and calls did after each. It fails
// where the tier breaks a promise.
func churn(tier *Tier, seed uint64, n int, did func() error) error {
	r := rand.New(rand.NewPCG(seed, 2))
	for range n {
		key, size := churnKey(r.IntN(churnKeys))
		var err error
		switch r.IntN(8) {
		case 0:
			err = tier.Remove(key)
		case 1:
			err = abort(tier, key, size)
		case 2, 3, 4:
			err = read(tier, key, size)
		default:
			err = store(tier, key, size)
		}
		if err != nil && !errors.Is(err, ErrNoRoom) {
			return err
		}
		if err := did(); err != nil {
			return err
		}
	}
	return nil
}

func read(tier *Tier, key string, size int) error {
	f, meta, err := tier.Open(key, noCheck)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if meta.Size != int64(size) || string(b) != string(content(key, size)) {
		return fmt.Errorf("%s has %d wrong bytes", key, len(b))
	}
	return nil
}

// abort writes half a file.
func abort(tier *Tier, key string, size int) error {
	f, err := tier.Create(key, int64(size))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(content(key, size)[:size/2], 0); err != nil {
		return err
	}
	return f.Abort()
}

func TestChurnKeepsItsBooks(t *testing.T) {
	dir := t.TempDir()
	tier := openTier(t, dir, churnLimit)
	var g errgroup.Group
	for seed := range uint64(6) {
		g.Go(func() error { return churn(tier, seed, 300, func() error { return nil }) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	wantWithin(t, dir, churnLimit)
	wantNothingLeaked(t, tier)
	if got, want := int64(len(files(t, dir))), tier.Counters().Entries; got != want {
		t.Errorf("%d files are there, %d are known", got, want)
	}
	if tier.Counters().Evictions == 0 {
		t.Error("nothing was evicted: the churn is too small to test anything")
	}
}

// churnChild churns for ever, with a byte to its standard output for each thing
// it did.
func churnChild(dir string) error {
	tier, err := Open(dir, Limits{Bytes: churnLimit}, quiet())
	if err != nil {
		return err
	}
	var g errgroup.Group
	for range 6 {
		g.Go(func() error {
			return churn(tier, rand.Uint64(), 1<<40, func() error {
				_, err := os.Stdout.Write([]byte("."))
				return err
			})
		})
	}
	return g.Wait()
}

// TestKilled stops a process at random moments to count what its directory takes
// up just then, and kills it at one. What the next process finds is whole.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	stored := 0
	for range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		beats := bufio.NewReaderSize(out, 16)
		for range 12 {
			wait(t, beats, 1+rand.IntN(80))
			pause(t, cmd.Process)
			wantWithin(t, dir, churnLimit)
			if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
		}
		wait(t, beats, 1+rand.IntN(80))
		cmd.Process.Kill()
		cmd.Wait()
		stored += wantWhole(t, dir)
		if t.Failed() {
			return
		}
	}
	if stored == 0 {
		t.Error("nothing survived: the child stored nothing")
	}
}

func wait(t *testing.T, beats *bufio.Reader, n int) {
	t.Helper()
	if _, err := beats.Discard(n); err != nil {
		t.Fatalf("the child has ended: %v", err)
	}
}

// pause stops a process and returns when all of it stands still.
func pause(t *testing.T, p *os.Process) {
	t.Helper()
	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	for !status.Stopped() {
		if _, err := unix.Wait4(p.Pid, &status, unix.WUNTRACED, nil); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		if status.Exited() || status.Signaled() {
			t.Fatal("the child has ended")
		}
	}
}

// wantWhole opens what a killed process left, and returns how many files it has.
func wantWhole(t *testing.T, dir string) int {
	t.Helper()
	tier := openLogged(t, dir, churnLimit, quiet())
	defer tier.Close()
	wantWithin(t, dir, churnLimit)
	found := 0
	for i := range churnKeys {
		key, size := churnKey(i)
		if _, ok := tier.Stat(key); ok {
			wantContent(t, tier, key, size)
			found++
		}
	}
	if left := files(t, dir); len(left) != found {
		t.Errorf("%d files are left, %d of them are known", len(left), found)
	}
	wantNothingLeaked(t, tier)
	return found
}

// TestNeverRefusedBelowTheLimit: with half of the limit being written at most,
// there is always something to make way, or to wait for.
func TestNeverRefusedBelowTheLimit(t *testing.T) {
	const writers, size = 4, 1 * mib
	limit := int64(baseCost + writers*headroom + (writers+1)*costOf(size))
	tier := openTier(t, t.TempDir(), limit)
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			for i := range 50 {
				if err := store(tier, fmt.Sprintf("w%d-%d", w, i), size); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	wantNothingLeaked(t, tier)
}
