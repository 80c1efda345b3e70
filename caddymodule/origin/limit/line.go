package limit

import (
	"container/list"
	"net/netip"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

// waiter is a request that waits for a place. Its fields are guarded by the
// budget's lock, but err once called is closed.
type waiter struct {
	client  netip.Prefix
	request Request
	called  chan struct{}
	err     error // why it gets no place

	at     *list.Element // among those for its file; nil: it waits no longer
	recent *list.Element // among those of its client that can be refused; nil: it can't
}

func newWaiter(client netip.Prefix, r Request) *waiter {
	return &waiter{client: client, request: r, called: make(chan struct{})}
}

// line is the requests of one class that wait.
//
//	line ── clients in turn ── files in turn ── requests, by offset and age
//
// So whoever asks for much waits for himself, and of many files of one client
// each moves on, since a transfer that does not is given up by the client.
type line struct {
	clients turns[netip.Prefix, *clientLine]
	waiting int
	recent  int // of these, that can be refused
	most    int // of these
}

// clientLine is those of one client.
type clientLine struct {
	files  turns[string, *list.List]
	recent list.List // that can be refused, the newest last
}

func newLine(most int) line {
	return line{clients: newTurns[netip.Prefix, *clientLine](), most: most}
}

func (l *line) len() int { return l.waiting }

// join adds a waiter. Where too many wait, the newest of the client that has most
// of them is refused, which may be this one.
func (l *line) join(w *waiter) {
	client, ok := l.clients.get(w.client)
	if !ok {
		client = &clientLine{files: newTurns[string, *list.List]()}
		l.clients.add(w.client, client)
	}
	file, ok := client.files.get(w.request.Path)
	if !ok {
		file = list.New()
		client.files.add(w.request.Path, file)
	}
	w.at = enter(file, w)
	l.waiting++
	if w.request.Continues {
		return
	}
	w.recent = client.recent.PushBack(w)
	if l.recent++; l.recent > l.most {
		l.refuseOne()
	}
}

// enter puts a waiter behind all that read from no later offset on.
func enter(file *list.List, w *waiter) *list.Element {
	for e := file.Back(); e != nil; e = e.Prev() {
		if e.Value.(*waiter).request.Offset <= w.request.Offset {
			return file.InsertAfter(w, e)
		}
	}
	return file.PushFront(w)
}

func (l *line) refuseOne() {
	var longest *clientLine
	for client := range l.clients.all {
		if longest == nil || client.recent.Len() >= longest.recent.Len() { // the one that came last, of equals
			longest = client
		}
	}
	w := longest.recent.Back().Value.(*waiter)
	w.err = &origin.BusyError{Op: w.request.Op, Path: w.request.Path}
	l.leave(w)
	close(w.called)
}

// move has a waiter wait among those of another client, if there are fewer.
func (l *line) move(w *waiter, client netip.Prefix) {
	if w.at == nil || l.of(client) >= l.of(w.client) {
		return
	}
	l.leave(w)
	w.client = client
	l.join(w)
}

// of returns how many requests of a client wait that can be refused.
func (l *line) of(client netip.Prefix) int {
	c, ok := l.clients.get(client)
	if !ok {
		return 0
	}
	return c.recent.Len()
}

// call gives the next in turn its place.
func (l *line) call() {
	w := l.clients.next().files.next().Front().Value.(*waiter)
	l.leave(w)
	close(w.called)
}

// leave takes a waiter out; false if it is not there.
func (l *line) leave(w *waiter) bool {
	if w.at == nil {
		return false
	}
	client, _ := l.clients.get(w.client)
	file, _ := client.files.get(w.request.Path)
	file.Remove(w.at)
	w.at = nil
	l.waiting--
	if w.recent != nil {
		client.recent.Remove(w.recent)
		l.recent--
	}
	if file.Len() == 0 {
		client.files.remove(w.request.Path)
	}
	if client.files.len() == 0 {
		l.clients.remove(w.client)
	}
	return true
}

// turns are members that have their turns one after the other. A new one comes
// last.
type turns[K comparable, V any] struct {
	members map[K]*list.Element // of values V
	order   *list.List
}

func newTurns[K comparable, V any]() turns[K, V] {
	return turns[K, V]{members: make(map[K]*list.Element), order: list.New()}
}

func (t *turns[K, V]) get(key K) (member V, ok bool) {
	if e := t.members[key]; e != nil {
		return e.Value.(V), true
	}
	return member, false
}

func (t *turns[K, V]) add(key K, member V) { t.members[key] = t.order.PushBack(member) }

func (t *turns[K, V]) remove(key K) {
	t.order.Remove(t.members[key])
	delete(t.members, key)
}

func (t *turns[K, V]) len() int { return len(t.members) }

// next returns the member whose turn it is, which then comes last.
func (t *turns[K, V]) next() V {
	e := t.order.Front()
	t.order.MoveToBack(e)
	return e.Value.(V)
}

// all yields the members in the order of their turns.
func (t *turns[K, V]) all(yield func(V) bool) {
	for e := t.order.Front(); e != nil; e = e.Next() {
		if !yield(e.Value.(V)) {
			return
		}
	}
}
