package join

import (
	"context"
	"time"

	"joist/cluster/store"
	"joist/internal/finding"
)

// waiting is a hello that was answered.
type waiting struct {
	hello      Hello
	key        string // sum of the joiner's key
	transcript []byte
	findings   finding.List // of the clock: the only ones that cannot be found again
	at         time.Time
}

// wrongProof counts; a token that somebody guesses at is void before there is
// any hope in it. One that is bound already stays: its key is what counts.
func (v *Voter) wrongProof(ctx context.Context, t Token) error {
	v.mu.Lock()
	if v.wrong == nil {
		v.wrong = map[string]int{}
	}
	v.wrong[t.ID]++
	n := v.wrong[t.ID]
	v.mu.Unlock()
	v.Log.Warn("wrong proof for a join token", "token", t.ID, "count", n)
	if n >= maxWrong {
		err := again(ctx, func() error {
			t, rev, err := v.token(ctx, t.ID)
			if err != nil || t.Burnt || t.Bound != "" {
				return err
			}
			t.Burnt = true
			_, err = v.Store.Txn(ctx, []store.Cond{{Key: TokenStoreKey(t.ID), Rev: rev}}, store.Op{Key: TokenStoreKey(t.ID), Value: t.Encode()})
			return err
		})
		if err != nil {
			return err
		}
	}
	return refuse("proof-wrong", "token", "copy the whole token again", "the secret part of the token is wrong")
}

func (v *Voter) remember(id string, w waiting) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.pending == nil {
		v.pending = map[string]waiting{}
	}
	oldest := ""
	for k, p := range v.pending {
		if w.at.Sub(p.at).Abs() > helloLife {
			delete(v.pending, k)
		} else if oldest == "" || p.at.Before(v.pending[oldest].at) {
			oldest = k
		}
	}
	if len(v.pending) >= maxPending {
		delete(v.pending, oldest)
	}
	v.pending[id+string(w.hello.Nonce)] = w
}

func (v *Voter) recall(id string, nonce []byte) (waiting, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	w, ok := v.pending[id+string(nonce)]
	return w, ok && v.Now().Sub(w.at).Abs() <= helloLife
}

func (v *Voter) forget(id string, nonce []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.pending, id+string(nonce))
}
