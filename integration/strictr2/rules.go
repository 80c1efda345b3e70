package strictr2

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	minPartSize   = 5 << 20
	maxParts      = 10_000
	writeInterval = time.Second
	maxComplete   = 4 << 20 // bytes of a request to complete an upload
)

// rules are asked in turn. One that returns a problem refuses the request.
var rules = []func(p *Proxy, op string, r *http.Request) *problem{
	noChecksums, noContinue, knownLength, rememberPart, equalParts, oneWritePerSecond,
}

func isBucket(path string) bool {
	_, key, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return key == ""
}

func noChecksums(_ *Proxy, _ string, r *http.Request) *problem {
	for name, values := range r.Header {
		name = strings.ToLower(name)
		switch {
		case strings.HasPrefix(name, "x-amz-checksum-"), name == "x-amz-sdk-checksum-algorithm", name == "x-amz-trailer",
			name == "x-amz-content-sha256" && strings.HasPrefix(values[0], "STREAMING-"):
			return notImplemented(name, values[0])
		}
	}
	return nil
}

func noContinue(_ *Proxy, _ string, r *http.Request) *problem {
	if expect := r.Header.Get("Expect"); expect != "" {
		return notImplemented("expect", expect)
	}
	return nil
}

func knownLength(_ *Proxy, _ string, r *http.Request) *problem {
	if r.ContentLength < 0 {
		return &problem{http.StatusLengthRequired, "MissingContentLength", "You must provide the Content-Length HTTP header."}
	}
	return nil
}

// part is what a client sent as one.
type part struct{ size int64 }

func rememberPart(p *Proxy, op string, r *http.Request) *problem {
	if op != "upload-part" {
		return nil
	}
	query := r.URL.Query()
	number, err := strconv.ParseInt(query.Get("partNumber"), 10, 32)
	if err != nil || number < 1 || number > maxParts {
		return &problem{http.StatusBadRequest, "InvalidArgument", fmt.Sprintf("Part number must be an integer between 1 and %d, inclusive.", maxParts)}
	}
	id := query.Get("uploadId")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.parts[id] == nil {
		p.mu.parts[id] = make(map[int32]part)
	}
	p.mu.parts[id][int32(number)] = part{r.ContentLength}
	return nil
}

func equalParts(p *Proxy, op string, r *http.Request) *problem {
	if op != "complete" {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxComplete))
	if err != nil {
		return &problem{http.StatusBadRequest, "IncompleteBody", err.Error()}
	}
	r.Body = io.NopCloser(bytes.NewReader(text))
	var list struct {
		Parts []struct{ PartNumber int32 } `xml:"Part"`
	}
	if err := xml.Unmarshal(text, &list); err != nil || len(list.Parts) == 0 {
		return &problem{http.StatusBadRequest, "MalformedXML", "The XML you provided was not well formed or did not validate against our published schema."}
	}
	id := r.URL.Query().Get("uploadId")
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.mu.parts[id][list.Parts[0].PartNumber]
	for _, listed := range list.Parts[:len(list.Parts)-1] {
		switch size := p.mu.parts[id][listed.PartNumber].size; {
		case size < minPartSize:
			return &problem{http.StatusBadRequest, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed object size."}
		case size != first.size:
			return &problem{http.StatusBadRequest, "InvalidPart", "All non-trailing parts must have the same length."}
		}
	}
	return nil
}

func oneWritePerSecond(p *Proxy, op string, r *http.Request) *problem {
	if op != "put" && op != "complete" {
		return nil
	}
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.mu.written[r.URL.Path]; ok && now.Sub(last) < writeInterval {
		return &problem{http.StatusTooManyRequests, "TooManyRequests", "Reduce your concurrent request rate for the same object."}
	}
	p.mu.written[r.URL.Path] = now
	return nil
}
