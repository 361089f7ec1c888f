// Package version answers which release of the API this is.
package version

import (
	"context"

	"joist/api/schema"
	"joist/hypervisor/server"
)

// Info is what GET /version says. Clients choose their calls by Version and
// Release, which are those of the API; the product's own version is Joist.
type Info struct {
	Version string `json:"version"`
	Release string `json:"release"`
	RepoID  string `json:"repoid"`
	Joist   string `json:"joist,omitempty"`
}

// API returns the release that this API follows, with the build's id where
// the original has the commit.
func API(buildID, joist string) Info {
	return Info{Version: "9.1.4", Release: "9.1", RepoID: buildID, Joist: joist}
}

// Manager is the form that a node's status has.
func (i Info) Manager() string { return "pve-manager/" + i.Version + "/" + i.RepoID }

// Routes returns GET /version and its twin for a node.
func Routes(i Info) []server.Route {
	do := func(context.Context, *server.Request) (any, error) { return i, nil }
	return []server.Route{
		{Method: schema.Method{Verb: "GET", Path: "/version", Text: "Release of the API and build of the system."}, Do: do},
		{Method: schema.Method{Verb: "GET", Path: "/nodes/{node}/version", Text: "Release of the API and build of the node's system.",
			OnNode: true, Params: []schema.Param{server.NodeParam()}}, Do: do},
	}
}
