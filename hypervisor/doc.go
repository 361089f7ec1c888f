// Package hypervisor is the root of what one node does: guests, storage,
// network, tasks, access and the API server, each in a folder of its own.
package hypervisor
