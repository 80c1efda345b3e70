// Command bench measures the cache beside other servers, on one machine in one
// run, and writes what it finds into the README. Run it by bench.sh, which
// installs the others and keeps this program off the servers' core.
//
// CPU time of the server, from /proc, is the figure to go by: it changes little
// with what else the machine does. Every ratio is of two figures of one run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	dir  string
	full bool
	only string
	dry  bool
}

func (o options) rounds() int {
	if o.full {
		return 9
	}
	return 3
}

func (o options) span() time.Duration {
	if o.full {
		return 4 * time.Second
	}
	return 1500 * time.Millisecond
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "where everything goes; an empty directory")
	flag.BoolVar(&o.full, "full", false, "more and longer rounds")
	flag.StringVar(&o.only, "only", "", "groups of rows, with commas between")
	flag.BoolVar(&o.dry, "dry", false, "print the section, leave README.md as it is")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// groups are the parts of a run, in order.
var groups = []struct {
	name string
	run  func(*world) error
}{
	{"narinfo", (*world).narinfo},
	{"nar", (*world).nar},
	{"tls", (*world).tls},
	{"cold", (*world).cold},
	{"herd", (*world).herd},
	{"operations", (*world).operations},
	{"push", (*world).push},
	{"memory", (*world).memory},
}

func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := time.Now()
	w, err := newWorld(ctx, o)
	defer w.stop()
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { w.stop(); os.Exit(1) })
	for _, g := range groups {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), g.name) {
			continue
		}
		before := time.Now()
		if err := g.run(w); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %.0f s\n", g.name, time.Since(before).Seconds())
	}
	section := w.report.markdown(describeMachine(), time.Since(start))
	fmt.Print(section)
	if o.dry || o.only != "" {
		return nil
	}
	return rewriteReadme("README.md", section)
}

// world is what the rows share.
type world struct {
	ctx     context.Context
	options options
	report  report

	maker   *fileMaker
	s3      *s3Server
	origin  *distantOrigin
	ours    *caddy // its sites: r2, dir, tls
	dressed *caddy // with a log, metrics and more in front; its sites: r2, respond
	others  *caddy // Caddy's own handlers; its sites: respond, files, tls
	nginx   *nginx
	varnish *varnish

	respond string // directives by which Caddy answers as ours does for info

	info file // the hot narinfo
	big  file // the hot NAR

	running []func()
}

// newWorld starts all servers. The world is to be stopped even if that failed.
func newWorld(ctx context.Context, o options) (*world, error) {
	w := &world{ctx: ctx, options: o, maker: &fileMaker{dir: o.dir + "/files"}}
	for _, step := range []func() error{w.startOrigin, w.makeFiles, w.startOurs, w.startDressed, w.startOthers} {
		if err := step(); err != nil {
			return w, err
		}
	}
	return w, nil
}

func (w *world) stop() {
	for _, stop := range slices.Backward(w.running) {
		stop()
	}
	w.running = nil
}

func (w *world) onStop(stop func()) { w.running = append(w.running, stop) }

func (w *world) startOrigin() (err error) {
	if w.s3, err = startS3(w.ctx, w.options.dir); err != nil {
		return err
	}
	w.onStop(w.s3.stop)
	if w.origin, err = startDistantOrigin(w.s3.address); err != nil {
		return err
	}
	w.onStop(w.origin.stop)
	return nil
}

const narSize = 60_000_000

func (w *world) makeFiles() (err error) {
	if err := os.Mkdir(w.maker.dir, 0o755); err != nil {
		return err
	}
	if w.info, err = w.maker.narinfo(); err != nil {
		return err
	}
	if w.big, err = w.newNAR(narSize); err != nil {
		return err
	}
	return w.s3.upload(w.ctx, w.info)
}

// newNAR makes a NAR that no cache has seen.
func (w *world) newNAR(size int64) (file, error) {
	f, err := w.maker.nar(size)
	if err != nil {
		return f, err
	}
	return f, w.s3.upload(w.ctx, f)
}

func (w *world) startOurs() (err error) {
	dir := w.options.dir
	if err := writeCertificate(dir); err != nil {
		return err
	}
	cache := nixCache(w.origin.address, dir+"/tier")
	w.ours, err = startCaddy(dir, "ours", "",
		site{name: "r2", directives: cache},
		site{name: "dir", directives: "nix_cache {\norigin dir " + w.maker.dir + "\n}"},
		site{name: "tls", directives: cache, tls: true})
	if err != nil {
		return err
	}
	w.onStop(w.ours.stop)
	w.respond, err = respondAs("http://" + w.ours.address["r2"] + w.info.path)
	return err
}

// startDressed starts a Caddy with the handlers in front that many sites have.
func (w *world) startDressed() (err error) {
	dir := w.options.dir
	dress := func(name, directives string) site {
		return site{name: name, directives: fmt.Sprintf("log {\noutput file %s/access-%s.log\n}\nencode\nheader X-Served-By bench\n%s",
			dir, name, directives)}
	}
	w.dressed, err = startCaddy(dir, "dressed", "metrics",
		dress("r2", nixCache(w.origin.address, dir+"/tier-dressed")), dress("respond", w.respond))
	if err != nil {
		return err
	}
	w.onStop(w.dressed.stop)
	return nil
}

func (w *world) startOthers() (err error) {
	dir, files := w.options.dir, w.maker.dir
	w.others, err = startCaddy(dir, "others", "",
		site{name: "respond", directives: w.respond},
		site{name: "files", directives: "root * " + files + "\nfile_server"},
		site{name: "tls", directives: "root * " + files + "\nfile_server", tls: true})
	if err != nil {
		return err
	}
	w.onStop(w.others.stop)
	if w.nginx, err = startNginx(dir, files, w.origin.address); err != nil {
		return err
	}
	w.onStop(w.nginx.stop)
	if w.varnish, err = startVarnish(dir, w.origin.address); err != nil {
		return err
	}
	w.onStop(w.varnish.stop)
	return nil
}
