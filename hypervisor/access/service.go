package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"joist/cluster/store"
)

// PolicyKey is where the cluster keeps its Policy.
const PolicyKey = "/joist/access/policy"

// Service answers the server's questions about callers. It is safe for use by
// several goroutines.
type Service struct {
	keys   Keys
	shadow string
	now    func() time.Time
	policy atomic.Pointer[Policy]
	// hashing bounds how many passwords are hashed at once: yescrypt takes
	// megabytes and a core for each.
	hashing chan struct{}
}

// NewService makes a Service without rules. Shadow is the file with root's
// password hash; it is read at each log-in, so that a change holds at once.
func NewService(keys Keys, shadow string, now func() time.Time) *Service {
	s := &Service{keys: keys, shadow: shadow, now: now, hashing: make(chan struct{}, 2)}
	s.policy.Store(&Policy{})
	return s
}

// Follow reads the policy from the store and keeps it up to date until ctx
// ends.
func (s *Service) Follow(ctx context.Context, st store.Store, log *slog.Logger) error {
	items, rev, err := st.List(ctx, PolicyKey)
	if err != nil {
		return fmt.Errorf("read access rules: %w", err)
	}
	for _, it := range items {
		if it.Key == PolicyKey {
			if err := s.set(it.Value); err != nil {
				return fmt.Errorf("read access rules: %w", err)
			}
		}
	}
	events := st.Watch(ctx, PolicyKey, rev)
	go func() {
		for e := range events {
			if e.Key != PolicyKey {
				continue
			}
			// A policy that cannot be read leaves the last good one in force.
			if err := s.set(e.Value); err != nil {
				log.Error("read access rules", "rev", e.Rev, "err", err)
			}
		}
	}()
	return nil
}

func (s *Service) set(b []byte) error {
	p := &Policy{}
	if b != nil {
		if err := json.Unmarshal(b, p); err != nil {
			return err
		}
	}
	s.policy.Store(p)
	return nil
}

// Policy returns the rules in force.
func (s *Service) Policy() Policy { return *s.policy.Load() }

// May implements server.Authorizer.
func (s *Service) May(user, token, path, priv string) bool {
	return s.policy.Load().May(user, token, path, priv)
}

// Ticket returns the user whose ticket it is.
func (s *Service) Ticket(ticket string) (string, error) {
	user, err := s.keys.Verify(ticket, s.now())
	if err != nil || !s.policy.Load().Enabled(user, s.now()) {
		return "", errTicket
	}
	return user, nil
}

// CSRF checks the token that goes with the user's ticket.
func (s *Service) CSRF(token, user string) error { return s.keys.VerifyCSRF(token, user, s.now()) }

// Token checks an API token's secret.
func (s *Service) Token(user, id, secret string) error {
	p := s.policy.Load()
	t, ok := p.Tokens[user+"!"+id]
	if !ok {
		return fmt.Errorf("no such token '%s' for user '%s'", id, user)
	}
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(t.Hash)) != 1 {
		return errors.New("invalid token value!")
	}
	if now := s.now(); !p.Enabled(user, now) || t.Expire != 0 && now.Unix() >= t.Expire {
		return errors.New("token is expired or its user is disabled")
	}
	return nil
}

// Login checks a password, for which a still valid ticket is as good: the
// user's own, to renew it, or root's, who may act for everybody.
func (s *Service) Login(ctx context.Context, user, password string) error {
	if strings.HasPrefix(password, "PVE:") {
		who, err := s.Ticket(password)
		if err != nil || who != user && who != Root || !s.policy.Load().Enabled(user, s.now()) {
			return ErrCredentials
		}
		return nil
	}
	if user != Root {
		return ErrCredentials
	}
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	hash, err := ReadShadow(s.shadow)
	if err != nil {
		return err
	}
	return CheckPassword(hash, password)
}

// Issue makes a ticket and its CSRF token.
func (s *Service) Issue(user string) (ticket, csrf string) {
	now := s.now()
	return s.keys.Mint(user, now), s.keys.MintCSRF(user, now)
}

// IssueVNC makes a console ticket.
func (s *Service) IssueVNC(user, path string, port int) string {
	return s.keys.MintVNC(user, path, port, s.now())
}

// CheckVNC checks a console ticket.
func (s *Service) CheckVNC(ticket, user, path string, port int) error {
	return s.keys.VerifyVNC(ticket, user, path, port, s.now())
}
