package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// client sends GET for one path again and again over one connection, at a
// small part of what net/http would cost the core that it shares.
type client interface {
	// get reads a whole answer into sink and returns how long it took to
	// its first byte, and its length.
	get(sink io.Writer) (first time.Duration, n int64, err error)
	close()
}

// plainClient speaks HTTP/1.1 over TCP.
type plainClient struct {
	conn    net.Conn
	r       *bufio.Reader
	buf     []byte
	request []byte
}

func dialPlain(address, path string) (client, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &plainClient{
		conn:    conn,
		r:       bufio.NewReaderSize(conn, 16<<10),
		buf:     make([]byte, 256<<10),
		request: plainRequest(address, path),
	}, nil
}

func plainRequest(address, path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: curl/8.0 Nix/2.24\r\nAccept: */*\r\n\r\n", path, address)
}

func (c *plainClient) get(sink io.Writer) (first time.Duration, n int64, err error) {
	start := time.Now()
	if _, err := c.conn.Write(c.request); err != nil {
		return 0, 0, err
	}
	length, err := c.header()
	first = time.Since(start)
	if err != nil {
		return first, 0, err
	}
	n, err = io.CopyBuffer(struct{ io.Writer }{sink}, struct{ io.Reader }{io.LimitReader(c.r, length)}, c.buf)
	if err == nil && n < length {
		err = io.ErrUnexpectedEOF
	}
	return first, n, err
}

var contentLength = []byte("content-length:")

// header reads the head of an answer and returns the length of its body.
func (c *plainClient) header() (length int64, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
		return 0, fmt.Errorf("got %q", line)
	}
	length = -1
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		if len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength) {
			length, err = strconv.ParseInt(string(bytes.TrimSpace(line[len(contentLength):])), 10, 64)
			if err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("the answer has no Content-Length")
	}
	return length, nil
}

func (c *plainClient) close() { c.conn.Close() }

// h2Client speaks HTTP/2 over TLS, with Go's client.
type h2Client struct {
	transport *http.Transport
	url       string
	buf       []byte
}

func dialH2(address, path string) (client, error) {
	return &h2Client{
		transport: &http.Transport{
			ForceAttemptHTTP2:  true,
			DisableCompression: true,
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"},
		},
		url: "https://" + address + path,
		buf: make([]byte, 256<<10),
	}, nil
}

func (c *h2Client) get(sink io.Writer) (first time.Duration, n int64, err error) {
	start := time.Now()
	req, err := http.NewRequest(http.MethodGet, c.url, nil)
	if err != nil {
		return 0, 0, err
	}
	req.Host = "localhost"
	resp, err := c.transport.RoundTrip(req)
	first = time.Since(start)
	if err != nil {
		return first, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		return first, 0, fmt.Errorf("got %s over %s", resp.Status, resp.Proto)
	}
	n, err = io.CopyBuffer(struct{ io.Writer }{sink}, struct{ io.Reader }{resp.Body}, c.buf)
	return first, n, err
}

func (c *h2Client) close() { c.transport.CloseIdleConnections() }
