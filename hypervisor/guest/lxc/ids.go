package lxc

import "fmt"

// Ids of unprivileged containers on the host.
//
// Each container has 65536 ids of its own. Which ones follows from the VMID at
// its creation and is from then on written in the volume itself, as the owner
// of its root folder: a volume that is moved, cloned or restored under another
// VMID keeps fitting, and nothing else has to be remembered. VMIDs go up to
// 999999999 and 32 bits hold fewer ranges than that, so VMIDs that differ by a
// multiple of 30000 share one; they are as far apart as all containers of a
// host usually are elsewhere.
//
// The last id, 1000000 + 30000*65536 - 1 = 1967079999, stays below 2^31 for
// programs that take ids as signed numbers, and the first above those of
// virtual machines (200000 … 209999) and of people.
const (
	FirstID = 1000000
	IDs     = 65536
	slots   = 30000
)

// BaseID is the host's id of root in a new unprivileged container.
func BaseID(vmid int) int { return FirstID + vmid%slots*IDs }

// baseOf reads the range from the owner of the root folder. Root in the
// container may have given the folder to anybody in its range, never to
// somebody outside.
func baseOf(owner int, unprivileged bool) (int, error) {
	switch {
	case !unprivileged && owner < FirstID:
		return 0, nil
	case !unprivileged:
		return 0, fmt.Errorf("its files belong to an unprivileged container (owner %d), but the configuration lacks unprivileged: 1", owner)
	case owner < FirstID || owner >= FirstID+slots*IDs:
		return 0, fmt.Errorf("its files belong to a privileged container (owner %d), but the configuration says unprivileged: 1", owner)
	}
	return owner - (owner-FirstID)%IDs, nil
}
