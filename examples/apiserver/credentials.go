package main

import (
	"crypto/rand"
	"net"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
)

// credentials are made up for one run and live in memory and in the kubeconfig that is handed out.
type credentials struct {
	serving dynamiccertificates.CertKeyContentProvider
	ca      []byte
	token   string
}

func newCredentials() (*credentials, error) {
	cert, key, err := certutil.GenerateSelfSignedCertKey("localhost", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		return nil, err
	}
	serving, err := dynamiccertificates.NewStaticCertKeyContent("throw-away certificate", cert, key)
	if err != nil {
		return nil, err
	}
	return &credentials{serving: serving, ca: cert, token: rand.Text()}, nil
}

// client is the configuration of a client of the server at an address.
func (c *credentials) client(address string) *rest.Config {
	return &rest.Config{
		Host:            "https://" + address,
		BearerToken:     c.token,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca},
	}
}

// writeKubeconfig writes a file for kubectl that only its owner can read.
func (c *credentials) writeKubeconfig(file, address string) error {
	const name = "metaetcd"
	config := api.NewConfig()
	config.Clusters[name] = &api.Cluster{Server: "https://" + address, CertificateAuthorityData: c.ca}
	config.AuthInfos[name] = &api.AuthInfo{Token: c.token}
	config.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	return clientcmd.WriteToFile(*config, file)
}
