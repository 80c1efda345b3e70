package decompress

import "io"

// walker follows a container while its bytes go by, for what the decoder behind
// it doesn't look at and those of clients do. It knows fields, which it gathers
// and has read by a step, and whatever lies between them, which it skips.
type walker struct {
	in    io.Reader
	skip  int64 // bytes to go by before the next field
	field []byte
	want  int // bytes of the field, at least 1
	step  func(field []byte) error
	end   func() error // what in's end is; nil: io.EOF, for the decoder to judge
	err   error
}

// then says what comes next: after so many bytes a field, for a step to read.
func (w *walker) then(skip int64, want int, step func([]byte) error) {
	w.skip, w.want, w.step = skip, want, step
}

// between is whether nothing has gone by since a step called then.
func (w *walker) between() bool { return w.skip == 0 && len(w.field) == 0 }

// Read tells the end by itself, not with the last bytes: the xz decoder would
// leave out the streams that are still to come in them.
func (w *walker) Read(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.in.Read(p)
	if w.err = w.walk(p[:n]); w.err != nil {
		return 0, w.err
	}
	if w.err = err; err == io.EOF && w.end != nil {
		w.err = w.end()
	}
	if n > 0 {
		return n, nil
	}
	return 0, w.err
}

func (w *walker) walk(b []byte) error {
	for len(b) > 0 {
		if skip := min(w.skip, int64(len(b))); skip > 0 {
			w.skip -= skip
			b = b[skip:]
			continue
		}
		n := min(w.want-len(w.field), len(b))
		w.field = append(w.field, b[:n]...)
		b = b[n:]
		if len(w.field) < w.want {
			return nil
		}
		field := w.field
		w.field = w.field[:0]
		if err := w.step(field); err != nil {
			return err
		}
	}
	return nil
}
