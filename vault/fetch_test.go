package vault

import "testing"

func TestUniqueLeavesTheCallersIDsAlone(t *testing.T) {
	t.Parallel()
	ids := []ID{{3}, {1}, {3}, {2}}
	if once := unique(ids); len(once) != 3 || once[0] != (ID{1}) || once[2] != (ID{3}) {
		t.Errorf("once each they are %v", once)
	}
	if ids[0] != (ID{3}) || ids[1] != (ID{1}) || ids[2] != (ID{3}) || ids[3] != (ID{2}) {
		t.Errorf("the caller's are %v", ids)
	}
}
