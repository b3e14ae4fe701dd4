// Package kubernetes runs Kubernetes' own storage tests on a meta cluster: the functions RunTest… of
// k8s.io/apiserver/pkg/storage/testing, called as the packages etcd3 and cacher call them, on a kubernetes.Client that the
// meta cluster is installed on. A plain etcd runs the same list beside it, so that a difference is metaetcd's.
//
// Command upstream goes further: it runs these two packages' tests themselves, private ones included, on both.
package kubernetes
