// Package origintest helps to test origins and what is built on them.
//
// [Run] is one conformance suite for every [origin.Origin]: it asserts the
// words of that contract and nothing that only one kind of origin could keep.
//
// [Memory] is an origin in memory for the tests of other packages. It counts
// the operations that reach it and fails, waits or lies where a test says so.
package origintest
