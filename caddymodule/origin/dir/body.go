package dir

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/stevedores-org/nix-cache/caddymodule/origin"
)

func describe(info fs.FileInfo) origin.Info {
	return origin.Info{Size: info.Size(), ETag: etag(info), ModTime: info.ModTime()}
}

// etag tells versions of a file apart: each commit makes another inode, and an
// edit in place changes size or time.
func etag(info fs.FileInfo) string {
	return fmt.Sprintf("%x-%x-%x", info.Size(), info.ModTime().UnixNano(), inode(info))
}

// section returns the part of file that opts asks for, which is the file itself
// where it has no other end: then the kernel can send it.
func section(ctx context.Context, file *os.File, info origin.Info, opts origin.OpenOptions) (io.ReadCloser, error) {
	if opts.IfMatch != "" && opts.IfMatch != info.ETag {
		return nil, origin.ErrChanged
	}
	begin := min(opts.Offset, info.Size)
	if begin > 0 {
		if _, err := file.Seek(begin, io.SeekStart); err != nil {
			return nil, err
		}
	}
	if opts.Length == 0 {
		return file, nil
	}
	return &limited{ctx: ctx, file: file, left: min(opts.Length, info.Size-begin)}, nil
}

// limited reads the next left bytes of a file.
type limited struct {
	ctx  context.Context
	file *os.File
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	if l.left == 0 {
		return 0, io.EOF
	}
	n, err := l.file.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // Somebody has truncated the file.
	}
	return n, err
}

func (l *limited) Close() error { return l.file.Close() }
