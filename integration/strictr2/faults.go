package strictr2

import "net/http"

// fault is the lot of the next requests of an operation.
type fault struct {
	operation string
	times     int
	lost      bool // the request takes effect, but its answer is lost
	problem   problem
}

// Fail makes the next times requests of an operation, as named at Requests,
// fail with an answer of that status and code, such as 503 and
// "ServiceUnavailable". They don't reach the server.
func (p *Proxy) Fail(operation string, times, status int, code string) {
	p.addFault(&fault{operation: operation, times: times, problem: problem{status, code, "Injected fault."}})
}

// Lose makes the next times requests of an operation take effect, but breaks
// the connection in place of the answer.
func (p *Proxy) Lose(operation string, times int) {
	p.addFault(&fault{operation: operation, times: times, lost: true})
}

func (p *Proxy) addFault(f *fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.faults = append(p.mu.faults, f)
}

// lost is where answers go that never arrive.
type lost struct{ header http.Header }

func (l *lost) Header() http.Header         { return l.header }
func (l *lost) Write(p []byte) (int, error) { return len(p), nil }
func (l *lost) WriteHeader(int)             {}
