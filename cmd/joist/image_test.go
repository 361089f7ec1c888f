package main

import (
	"testing"

	"joist/api/node"
	"joist/iso/build"
)

// The builder puts root's keys where the node looks for them.
func TestImageKeys(t *testing.T) {
	if build.ImageKeys != node.ImageKeysFile {
		t.Errorf("the builder writes %s, a node reads %s", build.ImageKeys, node.ImageKeysFile)
	}
}
