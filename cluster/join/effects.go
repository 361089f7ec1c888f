package join

import (
	"context"
	"time"

	"joist/cluster/pki"
)

// Machine is what an operation does to this node. Each method can be repeated
// after a cut anywhere in it; what it fills in of the operation is kept if it
// returns nil.
type Machine interface {
	// Records are this node's guests and storages now.
	Records(ctx context.Context) (Records, error)
	// Export writes export.json. A join also writes key, certificate,
	// authority and cluster.json of the admission where they do not count yet;
	// a leave fills in Exported; a recovery dumps the cluster's keys and makes
	// a new authority.
	Export(ctx context.Context, o *Op) error
	// Swap renames the volumes of Renames, moves the store's folder aside, or
	// removes it if one lies aside already, and puts in place what the new one
	// needs.
	Swap(ctx context.Context, o *Op) error
	// Attach opens the store, as a new member of the cluster (which it asks
	// for its place) or alone, and waits until it has everything. When it
	// returns an error the store is closed.
	Attach(ctx context.Context, o *Op) error
	// Clean removes what was put by: the old store, export.json.
	Clean(ctx context.Context, o *Op) error
	// Revert undoes Export and Swap, whatever there is of them: volumes get
	// their old names, the old store its place.
	Revert(ctx context.Context, o *Op) error
}

// Peers are the other nodes, towards which this one has a certificate. A
// *Refused error means that the cluster itself said no and nothing has
// happened; ErrUnreachable that nobody is known to have.
type Peers interface {
	// Finish calls Voter.Done over there.
	Finish(ctx context.Context, o Op) error
	// Release calls Voter.Leave over there.
	Release(ctx context.Context, o Op) error
	// Rejoin gets this node a learner's place and fills in MemberID.
	Rejoin(ctx context.Context, o *Op) error
}

// Door is the way into a cluster; *Joiner is one.
type Door interface {
	Check(ctx context.Context, r Records, want Want) (Preview, error)
	Commit(ctx context.Context, r Records) (Admission, error)
	Abort(ctx context.Context) error
}

// NewDoor makes the Door of an operation for a node over HTTPS.
func NewDoor(self func() (Self, error), now func() time.Time) func(Op) (Door, error) {
	return func(o Op) (Door, error) {
		secret, err := ParseToken(o.Ask.Token)
		if err != nil {
			return nil, err
		}
		key, err := pki.DecodeKey(o.Key)
		if err != nil {
			return nil, err
		}
		me, err := self()
		if err != nil {
			return nil, err
		}
		c := &HTTPS{Addresses: []string{o.Ask.Address}, Fingerprint: o.Ask.Fingerprint}
		if o.Authority != "" {
			c.Fingerprint = o.Authority
		}
		if o.Admission != nil { // the one that was asked may be gone or have moved
			for _, n := range o.Admission.others(me.Name) {
				c.Addresses = append(c.Addresses, n.Addresses...)
			}
		}
		return &Joiner{Client: c, Secret: secret, Self: me, Key: key, Now: now, Authority: o.Authority}, nil
	}
}
