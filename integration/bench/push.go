package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/stevedores-org/nix-cache/caddymodule/nix"
)

const (
	pushSize   = 1 << 30
	pushToken  = "bench-token"
	pushMemory = 200 // MiB beyond the start
	pushRatio  = 1.25

	// pushPages is what a push takes up in memory: the file itself, the parts
	// and the whole of the S3 server, and the disk tier's; and two to spare.
	pushPages = 6 * pushSize

	partSize  = 16 << 20 // of nix_cache, and for the SDK
	partsOpen = 2        // as well
)

// way is one of bringing a file into the bucket.
type way struct {
	name string
	push func(context.Context, file) error
	took []float64 // seconds
	cpu  []float64 // of our server, in seconds
}

// push: what does an upload through the cache cost, beside one straight into the
// bucket? The S3 server has a core to itself, and its files in memory: like one on
// a machine of its own it shares neither with the cache, which writes the NAR to
// its disk tier. The cache shares the other core with the client.
func (w *world) push() error {
	memory, err := os.MkdirTemp("/dev/shm", "nix-cache-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(memory)
	release, err := keepMemory(memory, pushPages)
	if err != nil {
		return err
	}
	defer release()
	bucket, err := startS3(w.ctx, memory)
	if err != nil {
		return err
	}
	defer bucket.stop()
	c, err := startCaddy(w.options.dir, "push", "", site{name: "r2", directives: pushCache(bucket.address, w.options.dir+"/tier-push")})
	if err != nil {
		return err
	}
	defer c.stop()
	if err := c.moveTo(clientCore); err != nil {
		return err
	}
	start, err := c.resident()
	if err != nil {
		return err
	}
	if err := c.resetPeak(); err != nil {
		return err
	}
	nar, err := w.maker.plainNAR(pushSize)
	if err != nil {
		return err
	}
	through := func(ctx context.Context, f file) error { return put(ctx, "http://"+c.address["r2"]+f.path, f) }
	ways := []*way{
		{name: "nix_cache", push: through},
		{name: "straight, one PUT", push: bucket.putWhole},
		{name: "straight, parts by the AWS SDK", push: bucket.putParts},
	}
	if err := w.pushInTurn(c, bucket, nar, ways); err != nil {
		return err
	}
	peak, err := c.peak()
	if err != nil {
		return err
	}
	t := table{title: "A push of a NAR of 1 GiB, not compressed", header: []string{"", "seconds", "× one PUT", "CPU per GB"}}
	base := median(ways[1].took)
	for _, way := range ways {
		perGB := ""
		if way == ways[0] {
			perGB = fmt.Sprintf("%.2f s", median(way.cpu)/(pushSize/1e9))
		}
		t.add(way.name, fmt.Sprintf("%.2f", median(way.took)), ratio(median(way.took)/base), perGB)
	}
	w.report.tables = append(w.report.tables, t)
	w.report.atMost("push of a 1 GiB NAR", median(ways[0].took)/base, pushRatio, "× one PUT straight to the bucket")
	w.report.atMost("its most resident memory, beyond the start", float64(peak-start)/(1<<20), pushMemory, "MiB")
	return w.pushCompressed(c, bucket, through)
}

// pushCompressed: the server decompresses what it takes in, to know the hash
// that its narinfo will be signed for.
func (w *world) pushCompressed(c *caddy, bucket *s3Server, through func(context.Context, file) error) error {
	t := table{title: "Pushes of a NAR that is compressed: a program of Go's", header: []string{"compression", "MB of the NAR", "MB sent", "MB of the NAR/s", "CPU per GB of the NAR"}}
	program, err := os.ReadFile(os.Getenv("CADDY"))
	if err != nil {
		return err
	}
	for _, compression := range []string{"", ".zst", ".xz"} {
		f, err := w.maker.compressed(program, compression)
		if err != nil {
			return err
		}
		ways := []*way{{name: compression, push: through}}
		if err := w.pushInTurn(c, bucket, f, ways); err != nil {
			return err
		}
		size := float64(len(program))
		t.add(cmp.Or(strings.TrimPrefix(compression, "."), "none"),
			fmt.Sprintf("%.0f", size/1e6), fmt.Sprintf("%.0f", float64(f.size)/1e6),
			fmt.Sprintf("%.0f", size/1e6/median(ways[0].took)), fmt.Sprintf("%.2f s", median(ways[0].cpu)/(size/1e9)))
	}
	w.report.tables = append(w.report.tables, t)
	return nil
}

// pushInTurn pushes the file by each way, round by round. It is new to the cache
// and to the bucket each time.
func (w *world) pushInTurn(c *caddy, bucket *s3Server, f file, ways []*way) error {
	for range w.options.rounds() {
		for _, way := range ways {
			if err := forget(w.ctx, "http://"+c.address["r2"]+f.path); err != nil {
				return err
			}
			if err := bucket.remove(w.ctx, f); err != nil {
				return err
			}
			syscall.Sync() // what was written before is not to hold this up
			before, err := c.cpu()
			if err != nil {
				return err
			}
			start := time.Now()
			if err := way.push(w.ctx, f); err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			way.took = append(way.took, time.Since(start).Seconds())
			after, err := c.cpu()
			if err != nil {
				return err
			}
			way.cpu = append(way.cpu, (after - before).Seconds())
		}
	}
	return nil
}

// keepMemory sees to it that so many bytes of free memory stay with the machine
// until they are released: it writes to them, and gives back all but a page here
// and there. A virtual machine tells its host of free blocks of 2 MiB and more,
// and to write to a page that the host has taken back costs ten times what it
// costs otherwise (https://docs.kernel.org/mm/free_page_reporting.html). So a push
// would be measured by what ran before it.
func keepMemory(dir string, size int64) (release func() error, err error) {
	f, err := os.CreateTemp(dir, "kept-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	const page, kept = 4 << 10, 256 << 10 // one of each
	block := make([]byte, kept)
	for range size / kept {
		if _, err := f.Write(block); err != nil {
			return nil, fmt.Errorf("keep %d bytes of memory: %w", size, err)
		}
	}
	for at := int64(0); at < size; at += kept {
		const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		if err := unix.Fallocate(int(f.Fd()), punch, at+page, kept-page); err != nil {
			return nil, err
		}
	}
	return f.Close, nil
}

func pushCache(address, disk string) string {
	text := nixCache(address, disk)
	return strings.TrimSuffix(text, "}") + "token bench " + pushToken + " upload delete\n}"
}

// forget deletes what the cache has of a file.
func forget(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, url+"?force=true", nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth("", pushToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		return fmt.Errorf("delete %s: %s", url, resp.Status)
	}
	return nil
}

// put sends the file in one request, as Nix does.
func put(ctx context.Context, url string, f file) error {
	body, err := os.Open(f.disk)
	if err != nil {
		return err
	}
	defer body.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, body)
	if err != nil {
		return err
	}
	req.ContentLength = f.size
	if !strings.Contains(url, "X-Amz-Signature") {
		req.SetBasicAuth("", pushToken)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("put %s: %s: %s", f.path, resp.Status, text)
	}
	return nil
}

// putWhole is put, straight into the bucket.
func (s *s3Server) putWhole(ctx context.Context, f file) error {
	signed, err := s3.NewPresignClient(s.client).PresignPutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: f.key()})
	if err != nil {
		return fmt.Errorf("sign the path of %s: %w", f.path, err)
	}
	return put(ctx, signed.URL, f)
}

// putParts is a multipart upload by the SDK, with the parts that nix_cache has.
func (s *s3Server) putParts(ctx context.Context, f file) error {
	body, err := os.Open(f.disk)
	if err != nil {
		return err
	}
	defer body.Close()
	upload, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: aws.String(bucket), Key: f.key()})
	if err != nil {
		return err
	}
	parts := make([]types.CompletedPart, (f.size+partSize-1)/partSize)
	senders, sending := errgroup.WithContext(ctx)
	senders.SetLimit(partsOpen)
	for i := range parts {
		senders.Go(func() error {
			from := int64(i) * partSize
			parts[i].PartNumber = aws.Int32(int32(i + 1))
			out, err := s.client.UploadPart(sending, &s3.UploadPartInput{
				Bucket: aws.String(bucket), Key: f.key(), UploadId: upload.UploadId, PartNumber: parts[i].PartNumber,
				Body: io.NewSectionReader(body, from, min(partSize, f.size-from)),
			}, s3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)) // as over TLS
			if err == nil {
				parts[i].ETag = out.ETag
			}
			return err
		})
	}
	if err := senders.Wait(); err != nil {
		return err
	}
	_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: aws.String(bucket), Key: f.key(), UploadId: upload.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}

func (s *s3Server) remove(ctx context.Context, f file) error {
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: f.key()})
	return err
}

func (f file) key() *string { return aws.String(strings.TrimPrefix(f.path, "/")) }

// plainNAR makes a NAR that is not compressed, as its name says.
func (m *fileMaker) plainNAR(size int64) (file, error) {
	f, err := m.nar(size)
	if err != nil {
		return f, err
	}
	f.path = strings.TrimSuffix(f.path, ".xz")
	old := f.disk
	f.disk = filepath.Join(m.dir, f.path)
	return f, os.Rename(old, f.disk)
}

// compressed makes a NAR of some content, with the compression of a suffix.
func (m *fileMaker) compressed(content []byte, suffix string) (file, error) {
	var out bytes.Buffer
	var err error
	switch suffix {
	case "":
		out.Write(content)
	case ".zst":
		err = compressTo(&out, content, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	case ".xz":
		err = compressTo(&out, content, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
	}
	if err != nil {
		return file{}, err
	}
	sum := sha256.Sum256(out.Bytes())
	f := file{path: "/nar/" + nix.EncodeBase32(sum[:]) + ".nar" + suffix, size: int64(out.Len())}
	f.disk = filepath.Join(m.dir, f.path)
	return f, os.WriteFile(f.disk, out.Bytes(), 0o644)
}

func compressTo(w io.Writer, content []byte, open func(io.Writer) (io.WriteCloser, error)) error {
	z, err := open(w)
	if err != nil {
		return err
	}
	if _, err := z.Write(content); err != nil {
		return err
	}
	return z.Close()
}

// clientCore is the one that the clients run on.
const clientCore = "1"

// moveTo has the process run on another core from now on.
func (p *process) moveTo(core string) error {
	out, err := exec.Command("taskset", "-a", "-p", "-c", core, strconv.Itoa(p.cmd.Process.Pid)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("move %s to core %s: %w: %s", p.name, core, err, out)
	}
	return nil
}
