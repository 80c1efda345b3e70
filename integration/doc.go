// Package integration tests the built Caddy from outside: with real Nix
// clients, over a real S3 server, through faults and restarts. Its tests need
// what run.sh installs and builds, and fail without it.
package integration
