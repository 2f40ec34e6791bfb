package policy

import (
	"strings"
	"sync"
	"time"

	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
)

// memory keeps what was made for a key, at most `remembered` of it: beyond, it forgets all and begins anew.
type memory[K comparable, V any] struct {
	mu   sync.RWMutex
	made map[K]V
}

const remembered = 4096

// get gives what belongs to a key, which is made if it isn't known.
func (m *memory[K, V]) get(key K, makeIt func() V) V {
	m.mu.RLock()
	v, known := m.made[key]
	m.mu.RUnlock()
	if known {
		return v
	}
	v = makeIt()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.made == nil || len(m.made) >= remembered {
		m.made = map[K]V{}
	}
	m.made[key] = v
	return v
}

// asked is a Question without the time and the principal's attributes. A set is immutable: as long as it is in force, the same
// `asked` has the same answer, but for actions that vary.
type asked struct {
	principal, roles string
	action           Action
	resource         Resource
	view             View
	facts            Facts
}

func (q *Question) asked() asked {
	a := asked{principal: q.Principal.ID, action: q.Action, resource: q.Resource, view: q.View, facts: q.Facts}
	a.facts.Now = time.Time{}
	if roles := q.Principal.Roles; len(roles) == 1 {
		a.roles = roles[0]
	} else {
		a.roles = strings.Join(roles, "\x00")
	}
	return a
}

// varies says whether a policy may rule differently on what is the same `asked`. It errs on the side of yes.
func varies(p *xast.Policy) bool {
	yes := false
	for _, c := range p.Conditions {
		xast.Inspect(xast.NewNode(c.Body), func(n xast.IsNode) bool {
			switch n := n.(type) {
			case xast.NodeTypeAccess:
				if v, variable := n.Arg.(xast.NodeTypeVariable); variable && v.Name == "context" && n.Value != "time" {
					return false
				}
			case xast.NodeTypeGetTag, xast.NodeTypeHasTag:
				yes = true
			case xast.NodeTypeVariable:
				yes = yes || n.Name == "context"
			}
			return true
		})
	}
	return yes
}

// places says whether a policy looks at the person's jurisdiction.
func places(p *xast.Policy) bool {
	yes := false
	for _, c := range p.Conditions {
		xast.Inspect(xast.NewNode(c.Body), func(n xast.IsNode) bool {
			access, is := n.(xast.NodeTypeAccess)
			yes = yes || is && access.Value == "jurisdiction"
			return true
		})
	}
	return yes
}
