// Package storageapi is the part of the REST API that shows storages and what
// they hold, and that uploads, downloads, allocates and deletes volumes. It
// defines no storage: definitions come with the storage.Set.
package storageapi

import (
	"context"
	"net/http"

	"joist/api/schema"
	"joist/hypervisor/server"
	"joist/hypervisor/storage"
	"joist/hypervisor/task"
)

// API is what the handlers work on.
type API struct {
	Node     string // this node's name
	Storages *storage.Set
	Tasks    task.Starter
	// InUse, if set, says why a guest's volume may not be deleted: nil when no
	// guest's configuration names it.
	InUse func(ctx context.Context, volid string) error
	// Client fetches download-url; nil stands for one with sane deadlines.
	Client *http.Client
	// Reserve is what an upload leaves free on a storage, in bytes; 0 stands
	// for 64 MiB.
	Reserve int64
}

var (
	nodeP    = schema.Param{Name: "node", Format: "pve-node", Text: "Name of the node."}
	storageP = schema.Param{Name: "storage", Format: "pve-storage-id", Text: "Id of the storage."}
	volumeP  = schema.Param{Name: "volume", MaxLen: 400, Text: "Volume id, or the volume's name on this storage."}
	contentP = schema.Param{Name: "content", Enum: []string{storage.ISO, storage.Template, storage.Import}, Text: "What the file is."}
	fileP    = schema.Param{Name: "filename", MaxLen: 255, Text: "Name that the file gets."}
	sumP     = schema.Param{Name: "checksum", Optional: true, MaxLen: 128, Pattern: "[0-9a-fA-F]+", Text: "Expected checksum, hexadecimal."}
	algP     = schema.Param{Name: "checksum-algorithm", Optional: true, Enum: algorithms(), Text: "Algorithm of the checksum."}
	verifyP  = schema.Param{Name: "verify-certificates", Type: schema.Boolean, Optional: true, Text: "Check the server's certificate (default 1)."}
	urlP     = schema.Param{Name: "url", MaxLen: 4096, Pattern: "https?://.+", Text: "Where to fetch from."}
)

// Routes lists the calls.
func (a *API) Routes() []server.Route {
	const onStorage = "/storage/{storage}"
	look := schema.Perm{Path: onStorage, Privs: []string{"Datastore.Audit", "Datastore.AllocateSpace"}, Any: true}
	bring := schema.Perm{Path: onStorage, Privs: []string{"Datastore.AllocateTemplate"}}
	reach := schema.Perm{Path: "/", Privs: []string{"Sys.Audit", "Sys.Modify"},
		Or: []schema.Perm{{Path: "/nodes/{node}", Privs: []string{"Sys.AccessNetwork"}}}}
	fetch := bring
	fetch.And = []schema.Perm{reach}
	r := func(verb, path, text string, perm schema.Perm, do server.Handler, params ...schema.Param) server.Route {
		on := len(path) > 6 && path[:7] == "/nodes/"
		return server.Route{Method: schema.Method{Verb: verb, Path: path, Text: text, Perm: perm, OnNode: on, Params: params}, Do: do}
	}
	const s = "/nodes/{node}/storage/{storage}"
	upload := r("POST", s+"/upload", "Upload an ISO image, a template or a disk image.", bring, a.upload, nodeP, storageP)
	upload.Upload = true
	return []server.Route{
		r("GET", "/storage", "List the definitions of storages.", schema.Perm{}, a.definitions,
			schema.Param{Name: "type", Optional: true, Text: "Only storages of this type."}),
		r("GET", "/storage/{storage}", "Show the definition of a storage.", schema.Perm{Path: onStorage, Privs: []string{"Datastore.Allocate"}}, a.definition, storageP),
		r("GET", "/nodes/{node}/storage", "List the storages of a node with how full they are.", schema.Perm{}, a.list, nodeP,
			schema.Param{Name: "content", Optional: true, List: true, Text: "Only storages that may hold all of these."},
			schema.Param{Name: "enabled", Type: schema.Boolean, Optional: true, Text: "Only storages that are not disabled."},
			schema.Param{Name: "format", Type: schema.Boolean, Optional: true, Text: "Also list the disk formats."},
			schema.Param{Name: "storage", Optional: true, Format: "pve-storage-id", Text: "Only this storage."},
			schema.Param{Name: "target", Optional: true, Format: "pve-node", Text: "Only storages that this other node has too."}),
		r("GET", s, "List what there is below a storage.", look, a.index, nodeP, storageP),
		r("GET", s+"/status", "Show how full a storage is.", look, a.status, nodeP, storageP),
		r("GET", s+"/content", "List volumes.", look, a.content, nodeP, storageP,
			schema.Param{Name: "content", Optional: true, Text: "Only this content type."},
			schema.Param{Name: "vmid", Type: schema.Integer, Optional: true, Format: "pve-vmid", Text: "Only volumes of this guest."}),
		r("POST", s+"/content", "Allocate a disk.", schema.Perm{Path: onStorage, Privs: []string{"Datastore.AllocateSpace"}}, a.allocate, nodeP, storageP,
			fileP, schema.Param{Name: "size", Pattern: `\d+[MG]?`, Text: "Size in KiB, or with suffix M (MiB) or G (GiB)."},
			schema.Param{Name: "vmid", Type: schema.Integer, Format: "pve-vmid", Text: "Guest that the disk belongs to."},
			schema.Param{Name: "format", Optional: true, Enum: []string{"raw", "qcow2", "subvol"}, Text: "Format of the disk."}),
		r("GET", s+"/content/{volume...}", "Show one volume.", look, a.volume, nodeP, storageP, volumeP),
		r("DELETE", s+"/content/{volume...}", "Delete a volume.", schema.Perm{}, a.remove, nodeP, storageP, volumeP,
			schema.Param{Name: "delay", Type: schema.Integer, Optional: true, Min: schema.F(1), Max: schema.F(30), Text: "Seconds to wait for the end; the answer is then null."}),
		upload,
		r("POST", s+"/download-url", "Download a file into a storage.", fetch, a.download, nodeP, storageP, contentP, fileP, urlP, sumP, algP, verifyP,
			schema.Param{Name: "compression", Optional: true, Enum: []string{"gz"}, Text: "Decompress the file while downloading."}),
		r("GET", "/nodes/{node}/query-url-metadata", "Ask a server for name, size and type of a file.", reach, a.metadata, nodeP, urlP, verifyP),
	}
}

// pool finds the pool of a request, with the answers that clients know.
func (a *API) pool(r *server.Request) (storage.Config, storage.Pool, error) {
	id := r.Params.String("storage")
	cfg, ok := a.Storages.Config(id)
	if !ok {
		return cfg, nil, server.ParamErrorf("storage", "No such storage.")
	}
	if cfg.Disable {
		return cfg, nil, server.Errorf("storage '%s' is disabled", id)
	}
	p, err := a.Storages.Pool(id)
	return cfg, p, err
}

// start runs f as a task and answers its UPID.
func (a *API) start(r *server.Request, kind, id string, f task.Func) (any, error) {
	upid, err := a.Tasks.Start(task.Spec{Type: kind, ID: id, User: r.Who.Name()}, f)
	if err != nil {
		return nil, err
	}
	return upid.String(), nil
}
