package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startVersityGW starts an S3 server (https://github.com/versity/versitygw) on
// an empty directory of its own and ends it with tb. The endpoint is a URL on
// the loopback interface. There are no buckets yet.
func startVersityGW(tb testing.TB) (endpoint, accessKey, secretKey string) {
	tb.Helper()
	return startVersityGWOn(tb, tb.TempDir())
}

// startVersityGWOn is startVersityGW on a directory of the caller's.
func startVersityGWOn(tb testing.TB, dir string) (endpoint, accessKey, secretKey string) {
	tb.Helper()
	program := os.Getenv("VERSITYGW")
	if program == "" {
		tb.Fatal("VERSITYGW is not set: run the integration tests by ./integration/run.sh, which installs versitygw and says where it is")
	}
	accessKey, secretKey = "integration", "integration-secret"
	address := freeAddress(tb)
	endpoint = "http://" + address
	server := exec.Command(program,
		"--access", accessKey, "--secret", secretKey, "--region", "auto",
		"--port", address, "--keep-alive", "--quiet", "--health", "/health",
		"posix", dir)
	var output output
	server.Stdout, server.Stderr = &output, &output
	if err := server.Start(); err != nil {
		tb.Fatalf("start versitygw: %v", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		server.Wait()
	}()
	tb.Cleanup(func() {
		server.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			server.Process.Kill()
			<-exited
		}
	})
	if err := awaitHealth(tb.Context(), endpoint+"/health", exited); err != nil {
		tb.Fatalf("start versitygw: %v\n%s", err, output.String())
	}
	return endpoint, accessKey, secretKey
}

// freeAddress returns a TCP address on the loopback interface that nobody uses.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// awaitHealth asks url until it answers 200, at most 30 seconds.
func awaitHealth(ctx context.Context, url string, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := probe(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-exited:
			return errors.New("it has ended")
		case <-ctx.Done():
			return err
		}
	}
}

func probe(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// output gathers what a process prints.
type output struct {
	mu struct {
		sync.Mutex
		text bytes.Buffer
	}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.text.String()
}
