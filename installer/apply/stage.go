package apply

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"joist/installer/plan"
)

// stage is steps of the plan that run beside each other: each of its lists in
// its own order.
type stage [][]plan.Action

// The lists of a stage.
const (
	alone = iota // a stage of its own
	data         // what is made on the data partition: LVM's tools and mkfs wait for themselves most of the time
	slot         // and what is copied to the slot meanwhile, which waits for medium and disk
	lists
)

func listOf(act plan.Action) int {
	switch act.(type) {
	case plan.CreateArray, plan.AssembleArray, plan.CreateLVM, plan.ActivateGroup, plan.CreatePool, plan.ImportPool, plan.Mkfs, plan.MkfsXFS, plan.Seed:
		return data
	case plan.WriteSlot:
		return slot
	}
	return alone
}

// stages keeps the plan's order but for steps that follow each other and write
// to different partitions.
func stages(actions []plan.Action) []stage {
	var out []stage
	before := alone
	for _, act := range actions {
		list := listOf(act)
		if list == alone || before == alone {
			out = append(out, make(stage, lists))
		}
		last := out[len(out)-1]
		last[list] = append(last[list], act)
		before = list
	}
	return out
}

// errOther is why a step ends that did not fail itself.
var errOther = errors.New("another step failed")

// stage runs the lists and waits for all. The first failure ends the others at
// the next occasion, and is the one that is returned.
func (a *applier) stage(ctx context.Context, s stage) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	for _, list := range s {
		wg.Go(func() {
			if err := a.list(ctx, list); err != nil {
				once.Do(func() { first = err })
				cancel(errOther)
			}
		})
	}
	wg.Wait()
	return first
}

func (a *applier) list(ctx context.Context, list []plan.Action) error {
	for _, act := range list {
		if ctx.Err() != nil {
			return fmt.Errorf("install: %w", context.Cause(ctx))
		}
		if err := a.step(ctx, act); err != nil {
			return err
		}
	}
	return nil
}
