package fetch

import (
	"encoding/json"
	"fmt"

	"joist/installer/plan"
	"joist/installer/probe"
)

// Answer servers of the field choose by the product's short name; the answers
// that we read are those of this one.
const product = "pve"

type schemaVersion struct {
	Version string `json:"version"`
}

// identity is the body of the request for an answer, as Proxmox's installer
// sends it (schema 1.0).
type identity struct {
	Schema  schemaVersion `json:"$schema"`
	Product struct {
		Fullname string `json:"fullname"`
		Product  string `json:"product"`
		Btrfs    bool   `json:"enable_btrfs"`
	} `json:"product"`
	ISO   release    `json:"iso"`
	DMI   dmi        `json:"dmi"`
	Cards []cardName `json:"network_interfaces"`
}

type release struct {
	Release string `json:"release"`
	ISO     string `json:"isorelease"`
}

type cardName struct {
	Link string `json:"link"`
	MAC  string `json:"mac"`
}

// dmi has an object for each group, empty or not.
type dmi struct {
	System    map[string]string `json:"system"`
	Baseboard map[string]string `json:"baseboard"`
	Chassis   map[string]string `json:"chassis"`
}

func dmiOf(f probe.Facts) dmi {
	return dmi{some(f.DMI.System), some(f.DMI.Baseboard), some(f.DMI.Chassis)}
}

// Identity says which machine asks.
func Identity(f probe.Facts, img plan.Image) ([]byte, error) {
	v := identity{Schema: schemaVersion{"1.0"}, ISO: release{img.Version, img.BuildID}, DMI: dmiOf(f), Cards: []cardName{}}
	v.Product.Fullname, v.Product.Product = "Joist", product
	for _, n := range f.NICs {
		v.Cards = append(v.Cards, cardName{n.Name, n.MAC})
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("describe the machine: %w", err)
	}
	return b, nil
}
