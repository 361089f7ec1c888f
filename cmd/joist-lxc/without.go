//go:build !liblxc

package main

import (
	"errors"
	"io"

	"joist/hypervisor/guest/lxc/wire"
)

func do(wire.Request, io.Reader) (wire.Reply, error) {
	return wire.Reply{}, errors.New("joist-lxc was built without liblxc (go build -tags liblxc)")
}
