package storetest

import (
	"testing"

	"joist/cluster/store"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) store.Store { return NewMemory() })
}
