// Package arch has no code, but a test: imports between the packages of this module go one way. The table in the test says which
// package may import which; .golangci.yml has the same for the linter, and is written from the table:
//
//	go test ./internal/arch -update
package arch
