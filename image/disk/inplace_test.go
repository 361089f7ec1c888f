package disk

import (
	"fmt"
	"testing"
)

func imageRequest(sector int) ImageRequest {
	r := ImageRequest{SectorSize: sector, DiskGUID: "00000000-0000-4000-8000-000000000000"}
	for i := range r.PartGUIDs {
		r.PartGUIDs[i] = fmt.Sprintf("00000000-0000-4000-8000-00000000000%d", i+1)
	}
	return r
}

func TestImageGrows(t *testing.T) {
	for sector, parts := range map[int]int{512: 4, 4096: 3} {
		l, err := PlanImage(imageRequest(sector))
		if err != nil || len(l.Partitions) != parts || l.Marks() != Unfinished|InPlace {
			t.Fatalf("%d: %+v %v", sector, l, err)
		}
		r := imageRequest(sector)
		g := GrowRequest{Size: 64e9, DiskGUID: "10000000-0000-4000-8000-000000000000", PartGUIDs: r.PartGUIDs}
		big, err := l.Grow(g)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range l.Partitions {
			if q := big.Partitions[i]; q.Start != p.Start || q.Size != p.Size || q.Number != p.Number || q.Name != p.Name {
				t.Errorf("%d: partition %d has moved: %+v", sector, p.Number, q)
			}
		}
		data, err := big.Find(NameData)
		if err != nil || data.Number != 5 || data.Start != l.Partitions[parts-1].End() || big.Size-data.End() > 2*Align {
			t.Errorf("%d: data %+v %v", sector, data, err)
		}
		// what was cut off begins anew, on a disk that has another size by now
		g.Size, g.Limit = 128e9, 50e9
		again, err := big.Grow(g)
		if err != nil || len(again.Partitions) != parts+1 || again.Partitions[parts].End() > 50e9 || again.Partitions[parts].End() < 50e9-Align {
			t.Errorf("%d: %+v %v", sector, again, err)
		}
		g.Size = l.Size
		if _, err := l.Grow(g); err == nil {
			t.Errorf("%d: data has room on a disk as small as the image", sector)
		}
	}
	other := Layout{SectorSize: 512, Partitions: []Partition{{Number: 7, Name: "home"}}}
	if _, err := other.Grow(GrowRequest{Size: 64e9}); err == nil {
		t.Error("a disk of somebody else grows")
	}
	if _, err := (Layout{SectorSize: 512}).Grow(GrowRequest{Size: 64e9}); err == nil {
		t.Error("a disk without boot parts grows")
	}
	if _, err := PlanImage(imageRequest(520)); err == nil {
		t.Error("sectors of 520 bytes are planned")
	}
}
