module github.com/metaetcd/metaetcd/sim
go 1.26
