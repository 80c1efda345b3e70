// Package source tests the source tree itself: its format, what vet says, and
// which packages know each other.
package source
