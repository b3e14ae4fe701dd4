// Package examples holds the examples of package metaetcd that run, on a meta cluster of embedded etcds. Those beside the
// package itself only compile, because a user of the library does not depend on etcd's server.
package examples
