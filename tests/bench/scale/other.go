//go:build !linux

// Command scale needs Linux, where it throttles the disk of every etcd.
package main

import "fmt"

func main() { fmt.Println("skipped: disks can only be throttled on Linux") }
