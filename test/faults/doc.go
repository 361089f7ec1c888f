// Package faults is a disk that remembers: a block server (NBD, for QEMU) that
// keeps every write and flush in the order in which it was told to do them,
// and makes from that the images which a power cut could have left.
//
// A disk with a write cache promises only what was written before a flush that
// it has answered, and a write with FUA. Everything since may be there or not,
// in any combination, and a write may be there in part, whole sectors of it.
// Killing QEMU shows none of that: the page cache of the host keeps all.
//
//	d, err := faults.Create(path, 32<<30)
//	s, err := faults.Serve(d, socket)   // vm.Disk{NBD: s.Path}
//	…
//	err = d.Record().Image(path, faults.Cut{Ops: 1234, Seed: 1, Sector: 512})
//
// Requests are handled one at a time. So a flush covers all that was asked for
// before it, as with a disk that does the same; a disk that overtakes could
// leave out writes whose answer nobody had seen yet.
package faults
