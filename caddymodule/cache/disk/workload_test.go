package disk

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
)

// workload is a sequence of requests for objects of different sizes.
type workload struct {
	sizes []int64 // in bytes, by object
	asked []int32 // objects, in the order they are asked for
}

// bytes is what a tier takes up that holds every object.
func (w *workload) bytes() (sum int64) {
	for _, size := range w.sizes {
		sum += costOf(size)
	}
	return sum
}

// object makes one more object and returns its number.
func (w *workload) object(size int64) int32 {
	w.sizes = append(w.sizes, size)
	return int32(len(w.sizes) - 1)
}

// sizeOf draws the size of an object in bytes.
type sizeOf func(*rand.Rand) int64

// narSize is lognormal: half of the NARs have less than 30 kB, and nearly all the
// bytes are in few large ones.
func narSize(r *rand.Rand) int64 {
	return min(int64(30e3*math.Exp(2.6*r.NormFloat64())), 3<<30)
}

func narinfoSize(r *rand.Rand) int64 { return 500 + r.Int64N(1500) }

// popular is the usual workload of caches: popularity by Zipf's law with exponent
// 0.9, drifting by a twentieth of the objects every 50,000 requests, and one
// request in five for something that nobody asks for again.
type popular struct {
	objects, requests int
	size              sizeOf
}

func (p popular) workload(seed uint64) *workload {
	r := rand.New(rand.NewPCG(seed, 1))
	w := new(workload)
	byRank := make([]int32, p.objects)
	cumulated := make([]float64, p.objects)
	var sum float64
	for i := range byRank {
		byRank[i] = w.object(p.size(r))
		sum += math.Pow(float64(i+1), -0.9)
		cumulated[i] = sum
	}
	for i := range p.requests {
		if i%50_000 == 49_999 {
			for range p.objects / 20 {
				byRank[r.IntN(p.objects)] = w.object(p.size(r))
			}
		}
		if r.IntN(5) == 0 {
			w.asked = append(w.asked, w.object(p.size(r)))
			continue
		}
		w.asked = append(w.asked, byRank[sort.SearchFloat64s(cumulated, r.Float64()*sum)])
	}
	return w
}

// fleet is what the edge of a Nix fleet sees: a machine fetches what its store
// lacks of a release when its turn comes, some skip one, CI jobs fetch again what
// others have, and a number of them are at it at any time.
type fleet struct {
	machines int // each with a store of its own
	releases int
	closure  int // objects in a release, a quarter of which the next one replaces
	jobs     int // of CI for each release: they have no store and fetch a tenth of it
	busy     int // machines and jobs that fetch at the same time
	size     sizeOf
}

func (f fleet) workload(seed uint64) *workload {
	r := rand.New(rand.NewPCG(seed, 2))
	w := new(workload)
	stores := make([]map[int32]bool, f.machines)
	for i := range stores {
		stores[i] = make(map[int32]bool)
	}
	closure := make([]int32, f.closure)
	for i := range closure {
		closure[i] = w.object(f.size(r))
	}
	for range f.releases {
		w.interleave(r, f.fetches(r, closure, stores), f.busy)
		for _, i := range r.Perm(f.closure)[:f.closure/4] {
			closure[i] = w.object(f.size(r))
		}
	}
	return w
}

// fetches returns what each machine and each job fetches of a release.
func (f fleet) fetches(r *rand.Rand, closure []int32, stores []map[int32]bool) [][]int32 {
	var all [][]int32
	for _, store := range stores {
		if r.IntN(4) == 0 {
			continue
		}
		var lacks []int32
		for _, object := range closure {
			if !store[object] {
				lacks = append(lacks, object)
				store[object] = true
			}
		}
		all = append(all, lacks)
	}
	for range f.jobs {
		var wants []int32
		for _, i := range r.Perm(len(closure))[:len(closure)/10] {
			wants = append(wants, closure[i])
		}
		all = append(all, wants)
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// interleave appends the fetches, n of which run at any time.
func (w *workload) interleave(r *rand.Rand, fetches [][]int32, n int) {
	for len(fetches) > 0 {
		i := r.IntN(min(n, len(fetches)))
		if len(fetches[i]) == 0 {
			fetches = slices.Delete(fetches, i, i+1)
			continue
		}
		w.asked = append(w.asked, fetches[i][0])
		fetches[i] = fetches[i][1:]
	}
}
