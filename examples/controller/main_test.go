package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{
		"--member", "birch=https://b1:2379,https://b2:2379;cacert=b.pem", "--coordinator", "https://c:2379",
		"--member", "ash=https://a:2379", "--cacert", "ca.pem", "--cert", "me.pem", "--key", "me-key.pem",
	})
	require.NoError(t, err)
	files := tlsFiles{"ca.pem", "me.pem", "me-key.pem"}
	require.Equal(t, connection{[]string{"https://c:2379"}, files}, o.coordinator)
	require.Equal(t, map[string]connection{
		"ash":   {[]string{"https://a:2379"}, files},
		"birch": {[]string{"https://b1:2379", "https://b2:2379"}, tlsFiles{"b.pem", "me.pem", "me-key.pem"}},
	}, o.members)
}

func TestParseErrors(t *testing.T) {
	for name, args := range map[string][]string{
		"no coordinator":    {"--member", "ash=a:2379"},
		"no endpoints":      {"--coordinator", "c:2379", "--member", "ash"},
		"a name twice":      {"--coordinator", "c:2379", "--member", "ash=a:2379", "--member", "ash=b:2379"},
		"an unknown file":   {"--coordinator", "c:2379;ca=ca.pem"},
		"a stray argument":  {"--coordinator", "c:2379", "d:2379"},
		"an unknown option": {"--coordinator", "c:2379", "--peer", "d:2379"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(args)
			require.Error(t, err)
		})
	}
}

func TestMissingFilesAreAnError(t *testing.T) {
	c, err := parseConnection("https://a:2379;cacert=/does/not/exist.pem", tlsFiles{})
	require.NoError(t, err)
	_, err = c.dial()
	require.Error(t, err)
}
