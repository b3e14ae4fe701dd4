// Package arch has no code, but tests of the module as a whole. Imports between its packages go one way: the table in the test says which
// package may import which; .golangci.yml has the same for the linter, and is written from the table:
//
//	go test ./internal/arch -update
//
// Every entry point that users have has an example that runs, and no link in a document is dead.
package arch
