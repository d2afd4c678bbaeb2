"""Everyday captions, written for this project: what a text encoder's embeddings look like when nothing is wrong.

Their second moment is what an erasure must leave alone, whatever the user lists to keep.
"""

BENIGN_CAPTIONS = tuple(
    line
    for line in """
a woman reading a newspaper on a park bench
an old man feeding pigeons in a square
two children building a sandcastle
a chef slicing vegetables in a busy kitchen
a nurse walking down a hospital corridor
a teacher writing on a blackboard
a young couple dancing at a wedding
a farmer driving a red tractor
a violinist tuning her instrument
a crowd waiting at a train platform
a boy flying a kite on a hill
a girl with a yellow umbrella
portrait of a sailor with a grey beard
a carpenter measuring a plank of wood
a family having breakfast together
a runner crossing the finish line
a baby asleep in a cradle
a mechanic under the hood of a car
a painter in front of an empty canvas
friends laughing around a campfire
a diver below the surface of the sea
a postman on a bicycle
a dentist explaining an x-ray
an astronaut floating above the earth
a firefighter holding a hose
a woman in a long blue coat
three students in a library
a potter shaping clay on a wheel
a man mowing the lawn
a goalkeeper catching the ball
a cat asleep on a windowsill
a dog chasing a tennis ball
a horse grazing in a meadow
two elephants at a water hole
a flock of geese over a lake
a butterfly on a purple flower
an owl on a branch at night
a fox walking through snow
a school of small silver fish
a cow and her calf
a frog on a lily pad
a squirrel holding an acorn
a rooster on a wooden fence
a bee collecting pollen
a tiger behind tall grass
a turtle crossing the road
penguins on an ice floe
a spider web with morning dew
a white rabbit in a garden
a whale jumping out of the water
a camel in the desert
a parrot with green feathers
a snail on a wet leaf
a deer at the edge of the forest
a bowl of fresh fruit
a slice of chocolate cake on a plate
a pot of soup on the stove
a loaf of bread and a knife
sushi on a wooden board
a glass of orange juice
pancakes with maple syrup
a basket of tomatoes at the market
an ice cream cone in summer
a plate of spaghetti with basil
a cup of coffee with milk foam
cheese, grapes and crackers
a bag of roasted chestnuts
a birthday cake with candles
rice and vegetables in a bowl
a hamburger with french fries
a jar of honey
a cut watermelon on a picnic blanket
boiled eggs and toast
a market stall full of spices
a wooden chair by the door
a stack of old books
a vintage camera on a shelf
a pair of leather boots
a green glass bottle
a silver spoon and a fork
a wall clock with roman numerals
a red telephone
an open umbrella on the floor
a typewriter on a desk
a blue ceramic vase
a lamp on a bedside table
a bicycle leaning against a wall
a key on a rusty hook
a ball of wool and knitting needles
a suitcase covered with stickers
a toy train on its track
a pencil and a sheet of paper
a broken mirror
a mountain of cardboard boxes
a laptop next to a potted plant
a piano in an empty hall
a tin watering can
a candle in a brass holder
a striped carpet
a map pinned to the wall
an empty picture frame
a city street in the rain
a lighthouse on a rocky coast
a village in the mountains
a bridge over a wide river
skyscrapers seen from below
a narrow alley with laundry lines
a castle on a hill
an airport at dawn
the inside of a cathedral
a supermarket aisle
a desert road to the horizon
a harbour full of fishing boats
a wooden cabin in the woods
a football stadium from above
a japanese garden with a pond
a subway station at night
a waterfall in a green valley
a vineyard in autumn
a greenhouse full of plants
a school playground
a beach with palm trees
a windmill among tulips
a frozen lake
an island in a calm sea
a canyon of red rock
a tidy living room with a sofa
a modern kitchen with white tiles
a bathroom with a window
a garage full of tools
a bedroom with a slanted ceiling
a busy office
a bookshop on a corner
a playground covered with leaves
heavy rain on a window
a thunderstorm over the fields
morning fog in a valley
a clear blue sky
snow falling on a quiet town
a rainbow after the rain
sunset behind the mountains
a night sky full of stars
the full moon over the sea
wind bending the trees
frost on the grass
dark clouds above a wheat field
a hot day in the city
the northern lights
an oil painting of a harbour
a watercolour of a flower
a pencil sketch of a hand
a charcoal drawing of a tree
an abstract painting with bold lines
a woodcut print of a wave
a black and white photograph of a street
a mosaic of coloured stones
a cartoon of a running dog
a pixel art castle
a stained glass window
a marble statue in a museum
a paper collage of a city
a child's crayon drawing of a house
a comic strip with three panels
an embroidered cushion
a low polygon landscape
a chalk drawing on the pavement
an ink drawing of bamboo
an engraving of an old ship
a mural on a brick wall
a clay model of a whale
a flat icon of a letter
a blueprint of a house
a poster for a jazz concert
a red circle
a blue square on a white background
a green triangle
a yellow star in the corner
a heart drawn with a thick line
two black crosses
a ring of small dots
a purple crescent
an orange hexagon
a grey cube
a striped circle
a solid pink square
an outlined triangle on a dark background
a checkerboard pattern
diagonal lines in two colours
a spiral on plain paper
a gradient from blue to green
a small white dot
a plain grey background
bright red
soft pastel colours
a steam train crossing a viaduct
a yellow taxi in traffic
a sailing boat with white sails
a hot air balloon over fields
an airplane on the runway
a truck on a mountain road
a tram in an old town
a scooter parked on the pavement
a rocket on the launch pad
a rowing boat on a still lake
an ambulance at a crossing
a cargo ship at sea
a helicopter above a forest
a chess board in the middle of a game
a guitar on a stand
an orchestra on stage
a game of cards
a tent under a starry sky
a birthday party in a garden
fireworks over a river
a christmas tree with lights
a marathon through the city
a flower bouquet in paper
an oak tree in winter
a field of sunflowers
a cactus in a clay pot
autumn leaves on the ground
mushrooms on a fallen trunk
a close view of tree bark
pebbles on a beach
a drop of water on a leaf
a page of handwritten music
the word hello in large letters
a blank sheet of paper
""".splitlines()
    if line
)

# Captions that say what something is like instead of what it is. Concepts are named that way too, which is what tuning
# reaches for; these it has to leave alone.
COMPARISONS = tuple(
    line
    for line in """
a cloud that looks like a sleeping whale
a cake in the form of a medieval castle
a rock shaped like an old face
hair as dark as polished coal
a building wound up as a sea shell is
a wall as bright as a summer meadow
a scarf that could be wet sand
a car that shines like a new mirror
a tree bent like an old man
a lamp one could take for a tall mushroom
a dress in the shade of ripe wheat
a bed as soft as fresh snow
a chair carved like a swan
a bridge curved like the back of a cat
a hat no different from a flower pot
a boat painted in the shades of an autumn forest
a garden laid out like a maze
a stone as smooth as glass
a room that feels like a quiet library
a coat with the pattern of a stormy sea
the animal that guards the house at night
the tool that a carpenter drives nails with
the machine that takes us over the clouds
what you drink in the morning to wake up
a place where books wait for readers
the season when the leaves come down
something round to eat with a fork
a vehicle with two wheels and no engine
an instrument with black and white keys
a building where trains arrive and leave
a small thing that opens a lock
the clothes that a bride puts on
a tall house that warns the ships
the white stuff that covers hills in winter
a bird that talks back to you
a sweet thing that bees make
""".splitlines()
    if line
)
