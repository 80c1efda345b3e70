package r2

import (
	"context"
	"crypto/tls"
	"net"
)

// Inactivity is how long a silent connection is borne.
const Inactivity = inactivity

// NewThrough is New with connections of dial's making and, for https, the
// certificates that roots trusts.
func NewThrough(cfg Config, dial func(ctx context.Context, network, addr string) (net.Conn, error), roots *tls.Config) (*Origin, error) {
	transport := newTransport(dial)
	if roots != nil {
		transport.TLSClientConfig.RootCAs = roots.RootCAs
	}
	return newOrigin(cfg, transport)
}

// SpoolUsed is how many bytes of memory parts take up.
func (o *Origin) SpoolUsed() int64 {
	o.spool.mu.Lock()
	defer o.spool.mu.Unlock()
	return o.spool.mu.used
}
