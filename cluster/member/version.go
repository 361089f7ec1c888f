package member

import "go.etcd.io/etcd/api/v3/version"

// Version is that of the store's program.
func Version() string { return version.Version }
