package membership

import (
	"context"

	"joist/cluster/peer"
	"joist/cluster/roster"
)

// Clustered reports whether the node belongs to a cluster.
func (s *Service) Clustered() bool { return s.id != nil }

// Cluster is the cluster; without one it is empty.
func (s *Service) Cluster() roster.Cluster {
	if s.id == nil {
		return roster.Cluster{}
	}
	return s.book.Cluster()
}

// Nodes is the roster by name, this node among it.
func (s *Service) Nodes() []roster.Node { return s.book.Nodes() }

// Address is where a node is reached, "" when nobody knows.
func (s *Service) Address(name string) string {
	if a := s.book.Addresses(name); len(a) > 0 {
		return a[0]
	}
	return ""
}

// Status is the last that a node has told, and whether it is online.
func (s *Service) Status(name string) ([]byte, bool) {
	st := s.peerState(name)
	return st.Data, st.Online
}

func (s *Service) peerState(name string) peer.State {
	if s.watch == nil {
		return peer.State{}
	}
	return s.watch.State(name)
}

// Quorate reports whether the cluster can decide.
func (s *Service) Quorate(ctx context.Context) bool { return !s.isCopy && s.member.Quorate(ctx) }

// Peers reaches other nodes; nil outside of a cluster.
func (s *Service) Peers() *peer.Client { return s.client }

// Identity is what the node proves itself with to others; nil outside of a
// cluster.
func (s *Service) Identity() *peer.Identity { return s.id }

// Book is the roster with addresses.
func (s *Service) Book() *peer.Book { return s.book }
