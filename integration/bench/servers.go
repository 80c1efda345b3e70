package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// site is one site of a Caddy, on a port of its own.
type site struct {
	name       string
	directives string
	tls        bool
}

// caddy is a Caddy that runs. Its sites have no host names, so that no time
// goes into telling them apart.
type caddy struct {
	*process
	admin   string            // path of the admin socket
	address map[string]string // by name of site
}

// startCaddy starts a Caddy in a new directory below dir.
func startCaddy(dir, name, options string, sites ...site) (*caddy, error) {
	home := filepath.Join(dir, name)
	if err := os.Mkdir(home, 0o755); err != nil {
		return nil, err
	}
	c := &caddy{admin: filepath.Join(home, "admin.sock"), address: map[string]string{}}
	config := fmt.Sprintf(caddyOptions, c.admin, options)
	var addresses []string
	for _, s := range sites {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		c.address[s.name] = address
		addresses = append(addresses, address)
		config += s.text(dir, address)
	}
	if err := os.WriteFile(filepath.Join(home, "Caddyfile"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	var err error
	c.process, err = launch(home, name, nil, os.Getenv("CADDY"), "run", "--config", "Caddyfile")
	if err != nil {
		return nil, err
	}
	return c, c.await(addresses...)
}

const caddyOptions = `{
	admin unix/%s
	default_bind 127.0.0.1
	auto_https off
	persist_config off
	grace_period 1s
	servers {
		protocols h1 h2
	}
	%s
}
`

func (s site) text(dir, address string) string {
	scheme, certificate := "http", ""
	if s.tls {
		scheme, certificate = "https", fmt.Sprintf("tls %[1]s/cert.pem %[1]s/key.pem", dir)
	}
	_, port, _ := strings.Cut(address, ":")
	return fmt.Sprintf("%s://:%s {\n%s\n%s\n}\n", scheme, port, certificate, s.directives)
}

// nixCache is the directive with its default settings, over the bucket at an
// address.
func nixCache(address, disk string) string {
	return fmt.Sprintf(`nix_cache {
		origin r2 {
			endpoint http://%s
			bucket %s
			access_key_id %s
			secret_access_key %s
		}
		disk %s 20GiB
	}`, address, bucket, accessKey, secretKey, disk)
}

// nginx serves files, and beside it as a cache of the bucket.
type nginx struct {
	*process
	files, proxy, tls string // addresses
}

func startNginx(dir, files, origin string) (*nginx, error) {
	home := filepath.Join(dir, "nginx")
	if err := os.Mkdir(home, 0o755); err != nil {
		return nil, err
	}
	n := &nginx{}
	for _, address := range []*string{&n.files, &n.proxy, &n.tls} {
		var err error
		if *address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	config := strings.NewReplacer("$HOME", home, "$DIR", dir, "$FILES", files, "$ORIGIN", origin+"/"+bucket,
		"$A1", n.files, "$A2", n.proxy, "$A3", n.tls).Replace(nginxConfig)
	if err := os.WriteFile(home+"/nginx.conf", []byte(config), 0o600); err != nil {
		return nil, err
	}
	var err error
	n.process, err = launch(home, "nginx", nil, "nginx", "-p", home, "-c", home+"/nginx.conf", "-e", home+"/error.log")
	if err != nil {
		return nil, err
	}
	return n, n.await(n.files, n.proxy, n.tls)
}

// The number of requests of a connection is no limit of Caddy's and Varnish's.
const nginxConfig = `daemon off;
user root;
worker_processes 1;
pid $HOME/pid;
events { worker_connections 1024; }
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 1000000000;
	default_type application/x-nix-nar;
	client_body_temp_path $HOME/body;
	proxy_temp_path $HOME/proxy;
	fastcgi_temp_path $HOME/fastcgi;
	uwsgi_temp_path $HOME/uwsgi;
	scgi_temp_path $HOME/scgi;
	proxy_cache_path $HOME/cache keys_zone=c:16m max_size=20g inactive=1d use_temp_path=off;
	server {
		listen $A1;
		root $FILES;
	}
	server {
		listen $A2;
		location / {
			proxy_pass http://$ORIGIN/;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_cache c;
			proxy_cache_valid 200 1d;
			proxy_cache_lock on;
			proxy_cache_lock_timeout 1h;
			proxy_cache_lock_age 1h;
		}
	}
	server {
		listen $A3 ssl http2;
		ssl_certificate $DIR/cert.pem;
		ssl_certificate_key $DIR/key.pem;
		ssl_protocols TLSv1.3;
		root $FILES;
	}
}
`

// varnish is a cache of the bucket, in memory.
type varnish struct {
	*process
	address string
}

func startVarnish(dir, origin string) (*varnish, error) {
	home := filepath.Join(dir, "varnish")
	if err := os.Mkdir(home, 0o755); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(origin, ":")
	vcl := fmt.Sprintf(varnishConfig, host, port, bucket)
	if err := os.WriteFile(home+"/default.vcl", []byte(vcl), 0o600); err != nil {
		return nil, err
	}
	p, err := launch(home, "varnish", nil, "varnishd", "-F", "-j", "none", "-n", home+"/work",
		"-a", address, "-T", "none", "-f", home+"/default.vcl", "-s", "malloc,4g")
	if err != nil {
		return nil, err
	}
	return &varnish{p, address}, p.await(address)
}

const varnishConfig = `vcl 4.1;
backend default { .host = "%s"; .port = "%s"; }
sub vcl_recv { set req.url = "/%s" + req.url; return (hash); }
sub vcl_backend_response { set beresp.ttl = 1d; return (deliver); }
`

// writeCertificate makes the certificate that all servers use.
func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(dir+"/cert.pem", "CERTIFICATE", cert); err != nil {
		return err
	}
	return writePEM(dir+"/key.pem", "PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
