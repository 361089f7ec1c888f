package vm

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// A variable comes behind those that are there, whole, or not at all.
func TestAddVariable(t *testing.T) {
	const size = 400
	volume := append(make([]byte, 72), bytes.Repeat([]byte{0xff}, size)...)
	store := volume[72:]
	copy(store, storeGUID)
	binary.LittleEndian.PutUint32(store[16:], size)
	for _, v := range []struct{ name, data string }{{"A", "odd"}, {"MokList", "certificate"}} {
		if err := addVariable(volume, v.name, shimGUID, []byte(v.data)); err != nil {
			t.Fatal(err)
		}
	}
	first, second := store[storeHeader:], store[storeHeader+variableHeader+4+4:] // "A\0" is 4 bytes, "odd" and padding too
	if !bytes.HasPrefix(first, []byte("\xaa\x55\x3f")) || string(first[44:60]) != shimGUID || string(first[variableHeader:variableHeader+7]) != "A\x00\x00\x00odd" {
		t.Errorf("% x", first[:80])
	}
	if want := "M\x00o\x00k\x00L\x00i\x00s\x00t\x00\x00\x00certificate\xff"; !strings.HasPrefix(string(second[variableHeader:]), want) {
		t.Errorf("% x", second[:100])
	}
	before := bytes.Clone(volume)
	if err := addVariable(volume, "B", shimGUID, make([]byte, size)); err == nil || !bytes.Equal(volume, before) {
		t.Errorf("a store that is full: %v", err)
	}
	if err := addVariable(make([]byte, size), "B", shimGUID, nil); err == nil {
		t.Error("a variable without a store")
	}
}
