import { find } from './payments.ts'
import { listOf, newId } from './state.ts'
import type { Route } from './server.ts'

/** What `npm run stripe:setup` makes. */
export const catalogueRoutes: Route[] = [
  [
    'POST',
    '/v1/products',
    (state, params) => {
      const id = typeof params.id === 'string' ? params.id : newId(state, 'prod')
      const product = { ...params, id, object: 'product' }
      state.products.set(id, product)
      return product
    },
  ],
  ['GET', '/v1/products/:id', (state, _, [id = '']) => find(state.products, id)],
  [
    'POST',
    '/v1/prices',
    (state, params) => {
      const id = newId(state, 'price')
      for (const price of state.prices.values()) {
        if (price.lookup_key === params.lookup_key) price.lookup_key = null
      }
      const price = { ...params, id, object: 'price', active: true }
      state.prices.set(id, price)
      return price
    },
  ],
  [
    'GET',
    '/v1/prices',
    (state, params) => {
      const keys = (params.lookup_keys ?? []) as unknown[]
      const data = [...state.prices.values()].filter((price) => keys.includes(price.lookup_key))
      return listOf(data, '/v1/prices')
    },
  ],
  [
    'POST',
    '/v1/webhook_endpoints',
    (state, params) => {
      const id = newId(state, 'we')
      const endpoint = { ...params, id, object: 'webhook_endpoint', status: 'enabled' }
      state.endpoints.set(id, endpoint)
      return { ...endpoint, secret: `whsec_${id}` }
    },
  ],
  [
    'GET',
    '/v1/webhook_endpoints',
    (state) => listOf([...state.endpoints.values()], '/v1/webhook_endpoints'),
  ],
  [
    'POST',
    '/v1/webhook_endpoints/:id',
    (state, params, [id = '']) => Object.assign(find(state.endpoints, id), params),
  ],
  [
    'POST',
    '/v2/core/event_destinations',
    (state, params) => {
      const id = newId(state, 'ed')
      const { url } = params.webhook_endpoint as { url: string }
      const destination = { ...params, id, object: 'v2.core.event_destination', status: 'enabled' }
      state.destinations.set(id, destination)
      return { ...destination, webhook_endpoint: { url, signing_secret: `whsec_${id}` } }
    },
  ],
  [
    'GET',
    '/v2/core/event_destinations',
    (state) => ({
      data: [...state.destinations.values()],
      next_page_url: null,
      previous_page_url: null,
    }),
  ],
  [
    'POST',
    '/v2/core/event_destinations/:id',
    (state, params, [id = '']) => Object.assign(find(state.destinations, id), params),
  ],
]
