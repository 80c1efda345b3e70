package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	serverCore = "0" // of the machine
	clientCore = "1" // what loads the servers runs on it
	tick       = 10 * time.Millisecond
)

// process is a server that runs on the servers' core.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string // path of what it prints
	exited chan struct{}
}

// launch starts a server, whose output goes to a file in dir.
func launch(dir, name string, env []string, command ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), exited: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command("taskset", append([]string{"-c", serverCore}, command...)...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// await waits until something listens at each address.
func (p *process) await(addresses ...string) error {
	deadline := time.Now().Add(30 * time.Second)
	for _, address := range addresses {
		for {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-p.exited:
				return p.complain("it has ended")
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				return p.complain(err.Error())
			}
		}
	}
	return nil
}

func (p *process) complain(what string) error {
	text, _ := os.ReadFile(p.log)
	return fmt.Errorf("start %s: %s\n%s", p.name, what, text)
}

// stop ends the process, and by it its children.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// cpu returns the CPU time, user and system, that the process and its
// descendants have had.
func (p *process) cpu() (time.Duration, error) {
	var ticks int64
	for _, pid := range family(p.cmd.Process.Pid) {
		s, err := readStat(pid)
		if err != nil {
			return 0, fmt.Errorf("CPU time of %s: %w", p.name, err)
		}
		ticks += s.ticks
	}
	return time.Duration(ticks) * tick, nil
}

// family returns a process and its descendants.
func family(root int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if s, err := readStat(pid); err == nil {
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids
}

type stat struct {
	parent int
	ticks  int64 // utime + stime
}

// readStat reads /proc/<pid>/stat, whose second field is a name in parentheses
// that may contain anything: see proc_pid_stat(5).
func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return stat{}, errors.New("read /proc: too few fields")
	}
	parent, err1 := strconv.Atoi(fields[1])
	user, err2 := strconv.ParseInt(fields[11], 10, 64)
	system, err3 := strconv.ParseInt(fields[12], 10, 64)
	return stat{parent, user + system}, errors.Join(err1, err2, err3)
}

// peak returns the most resident memory, in bytes, since resetPeak.
func (p *process) peak() (int64, error) { return p.status("VmHWM:") }

// resident returns how much memory is resident now, in bytes.
func (p *process) resident() (int64, error) { return p.status("VmRSS:") }

func (p *process) status(field string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), field)
	words := strings.Fields(rest)
	if len(words) == 0 {
		return 0, fmt.Errorf("read /proc: there is no %s", field)
	}
	kib, err := strconv.ParseInt(words[0], 10, 64)
	return kib << 10, err
}

// resetPeak: see clear_refs in proc(5).
func (p *process) resetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0)
}

// freeAddress returns a TCP address on the loopback interface that nobody uses.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// moveTo has the process run on another core from now on.
func (p *process) moveTo(core string) error {
	out, err := exec.Command("taskset", "-a", "-p", "-c", core, strconv.Itoa(p.cmd.Process.Pid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("move %s to core %s: %w: %s", p.name, core, err, out)
	}
	return nil
}
