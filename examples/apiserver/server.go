package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	nooptrace "go.opentelemetry.io/otel/trace/noop"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	generatedopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/apiserver/pkg/util/webhook"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/metaetcd/metaetcd/examples/apiserver/storage"
)

const (
	etcdPrefix = "/registry/apiextensions.kubernetes.io"
	// healthTimeout bounds the question whether the store answers.
	healthTimeout = 2 * time.Second
	// watchGrace is how long a server that stops takes to end its watches. Without it they hold it up for a minute.
	watchGrace = time.Second
)

// serverConfig is what an API server is made of.
type serverConfig struct {
	backend    *storage.Backend
	health     func(context.Context) error
	listener   net.Listener // on a loopback address; the server closes it
	creds      *credentials
	encryption string // file with the configuration of encryption at rest; may be empty
}

// newServer builds the API server for custom resource definitions and what they define. Its storage is the backend's; the rest
// is what any server of k8s.io/apiserver has.
func newServer(cfg serverConfig) (*genericapiserver.GenericAPIServer, error) {
	generic := genericapiserver.NewRecommendedConfig(apiextensions.Codecs)
	run := genericoptions.NewServerRunOptions()
	run.ShutdownWatchTerminationGracePeriod = watchGrace
	if err := run.ApplyTo(&generic.Config); err != nil {
		return nil, err
	}
	if err := serve(cfg, &generic.Config); err != nil {
		return nil, err
	}
	etcd, err := store(cfg, &generic.Config)
	if err != nil {
		return nil, err
	}
	resources := apiextensions.DefaultAPIResourceConfigSource()
	if err := genericoptions.NewAPIEnablementOptions().ApplyTo(&generic.Config, resources, apiextensions.Scheme); err != nil {
		return nil, err
	}
	definitions := openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generatedopenapi.GetOpenAPIDefinitions)
	namer := openapinamer.NewDefinitionNamer(apiextensions.Scheme, clientscheme.Scheme)
	generic.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	generic.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)

	custom := crdoptions.NewCRDRESTOptionsGetter(*etcd, generic.ResourceTransformers, generic.StorageObjectCountTracker)
	completed := (&apiextensions.Config{
		GenericConfig: generic,
		ExtraConfig: apiextensions.ExtraConfig{
			CRDRESTOptionsGetter: cfg.backend.RESTOptions(custom), // of what the definitions define
			ServiceResolver:      webhook.NewDefaultServiceResolver(),
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, generic.LoopbackClientConfig, nooptrace.NewTracerProvider()),
		},
	}).Complete()
	completed.GenericConfig.EnableDiscovery = true // there is no aggregator in front of it
	server, err := completed.New(genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, err
	}
	return server.GenericAPIServer, nil
}

// serve sets how the server is reached, and by whom: TLS on loopback, and whoever has the token may do everything.
func serve(cfg serverConfig, config *genericapiserver.Config) error {
	addr, ok := cfg.listener.Addr().(*net.TCPAddr)
	if !ok {
		return errors.New("the listener is not TCP's")
	}
	secure := genericoptions.NewSecureServingOptions().WithLoopback()
	secure.Listener, secure.BindAddress, secure.BindPort = cfg.listener, addr.IP, addr.Port
	secure.ServerCert.GeneratedCert = cfg.creds.serving
	if err := secure.ApplyToConfig(config); err != nil {
		return err
	}
	admin := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
	config.Authentication.Authenticator = authenticatorfactory.NewFromTokens(map[string]*user.DefaultInfo{cfg.creds.token: admin}, nil)
	config.Authorization.Authorizer = authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)
	return nil
}

// store sets where the server keeps its objects.
func store(cfg serverConfig, config *genericapiserver.Config) (*genericoptions.EtcdOptions, error) {
	codec := apiextensions.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion)
	etcd := genericoptions.NewEtcdOptions(storagebackend.NewDefaultConfig(etcdPrefix, codec))
	etcd.EncryptionProviderConfigFilepath = cfg.encryption
	etcd.SkipHealthEndpoints = true // they would dial --etcd-servers
	if err := etcd.ApplyTo(config); err != nil {
		return nil, err
	}
	config.RESTOptionsGetter = cfg.backend.RESTOptions(config.RESTOptionsGetter)
	check := func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
		defer cancel()
		return cfg.health(ctx)
	}
	config.AddHealthChecks(healthz.NamedGroupedCheck("metaetcd", "etcd", check))
	config.AddReadyzChecks(healthz.NamedGroupedCheck("metaetcd-readiness", "etcd-readiness", check))
	return etcd, nil
}
