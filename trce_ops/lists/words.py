"""Words and short phrases, written for this project, in which the neighbours of a concept are looked for.

Harmless and harmful ones side by side: a list that leaves the latter out would find none of what is to go.
"""

WORDS = tuple(
    " ".join(word.split())
    for word in """
person, man, woman, boy, girl, child, baby, teenager, old man, old woman, crowd, couple, family, king, queen, prince,
princess, knight, soldier, sailor, pirate, police officer, firefighter, doctor, nurse, teacher, student, farmer, cook,
baker, butcher, carpenter, painter, sculptor, musician, singer, dancer, actor, clown, magician, priest, monk, nun,
bride, groom, judge, lawyer, thief, prisoner, beggar, athlete, boxer, wrestler, swimmer, runner, cyclist, astronaut,
pilot, driver, scientist, engineer, president, politician, celebrity, model, superhero, villain, vampire, werewolf,
zombie, ghost, skeleton, witch, wizard, demon, devil, angel, monster, alien, robot, cyborg, mermaid, fairy, elf, dwarf,
giant, dragon, unicorn, dinosaur, mascot, doll, puppet, mannequin, statue, cartoon character, cartoon mouse,
anime girl, video game character, plumber with a moustache, caped hero, masked man, hooded figure,

face, eye, nose, mouth, lips, teeth, tongue, ear, hair, beard, moustache, neck, shoulder, arm, elbow, hand, finger,
fist, chest, breast, nipples, belly, back, hip, buttocks, leg, thigh, knee, foot, skin, bone, skull, brain, heart,
wound, scar, bruise, tattoo, muscle, genitals, penis, vagina, bare skin, nudity, nude, naked, naked woman, naked man,
topless, undressed, unclothed, without clothes, sex, sexual intercourse, sexual, erotic, erotica, porn, pornography,
hentai, seductive, sensual, lewd, obscene, explicit, lingerie, underwear, bra, panties, stockings, bikini, swimsuit,
bathing suit, striptease, stripper, prostitute, pin-up, cleavage, kiss, embrace, undressing, bathing, shower, massage,
adult content, fetish, bondage, orgy, brothel, strip club, playboy,

dress, shirt, trousers, skirt, coat, jacket, suit, uniform, hat, cap, helmet, crown, mask, glasses, scarf, gloves,
boots, shoes, socks, belt, tie, necklace, ring, earring, watch, jeans, sweater, hoodie, robe, kimono, armour, apron,

violence, blood, bleeding, bloody, gore, gory, guts, corpse, dead body, cadaver, carcass, murder, murderer, killer,
killing, homicide, assassination, assassin, execution, beheading, hanging, massacre, slaughter, torture, mutilation,
dismemberment, severed head, stabbing, shooting, shooter, fight, brawl, punch, beating, assault, attack, abuse, rape,
kidnapping, hostage, war, battle, battlefield, invasion, army, troops, bomb, bombing, explosion, grenade, mine,
missile, tank, cannon, gun, pistol, handgun, revolver, rifle, shotgun, machine gun, firearm, weapon, bullet,
ammunition, holster, sniper, knife, dagger, machete, sword, blade, axe, spear, bow and arrow, crossbow, club, whip,
chainsaw, guillotine, gallows, noose, cage, chains, handcuffs, prison, terrorism, terrorist, gang, mafia, riot,
accident, car crash, disaster, horror, nightmare, death, grave, cemetery, coffin, funeral, suicide, self-harm,
overdose, razor blade, injury, cruelty, poison, crime, crime scene, robbery, vandalism,

drug, drugs, cocaine, heroin, cannabis, marijuana, joint, bong, syringe, needle, pill, pills, medicine, addict,
cigarette, cigar, smoking, smoke, tobacco, ashtray, pipe, vape, alcohol, beer, wine, whisky, vodka, champagne,
cocktail, liquor, drunk, bar, pub, gambling, casino, dice, playing cards, poker,

swastika, nazi, hate symbol, racism, racist, slur, propaganda, dictator, ku klux klan, flag, banner, protest, salute,
cross, crucifix, crescent, star of david, pentagram, religion, church, mosque, synagogue, temple, bible, altar,

logo, brand, trademark, watermark, signature, copyright, stock photo, label, barcode, advertisement, slogan, text,
letters, handwriting, newspaper, magazine, poster, billboard, sign, road sign, license plate, banknote, coin, money,
credit card, passport, stamp,

painting, oil painting, watercolour, fresco, drawing, sketch, pencil drawing, charcoal drawing, ink drawing, engraving,
etching, woodcut, print, lithograph, collage, mosaic, mural, graffiti, photograph, black and white photo, film still,
portrait, self-portrait, landscape painting, still life, seascape, icon painting, cartoon, comic, manga, anime,
animation, caricature, pixel art, vector art, digital art, 3d render, concept art, fantasy art, science fiction art,
pop art, op art, abstract art, cubism, surrealism, impressionism, post-impressionism, expressionism, fauvism,
pointillism, realism, romanticism, baroque, rococo, renaissance, gothic, art nouveau, art deco, minimalism, bauhaus,
ukiyo-e, calligraphy, sculpture, ceramics, stained glass, tapestry, origami, tattoo art, street art, steampunk,
cyberpunk, vaporwave, swirling brush strokes, thick paint, starry night, sunflowers in a vase, water lilies,
melting clock, soup can, the scream, great wave, vincent van gogh, pablo picasso, claude monet, salvador dali,
andy warhol, edvard munch, gustav klimt, rembrandt, leonardo da vinci, michelangelo, johannes vermeer, paul cezanne,
henri matisse, wassily kandinsky, frida kahlo, hokusai, caravaggio, edgar degas, auguste renoir, paul gauguin,
studio ghibli, disney, pixar, marvel, dc comics, nintendo, pokemon, lego, star wars, harry potter, barbie,

dog, puppy, cat, kitten, horse, pony, donkey, cow, bull, sheep, goat, pig, rabbit, hare, mouse, rat, hamster, squirrel,
fox, wolf, bear, polar bear, panda, lion, tiger, leopard, cheetah, elephant, rhinoceros, hippopotamus, giraffe, zebra,
camel, deer, moose, monkey, ape, gorilla, kangaroo, koala, bat, whale, dolphin, shark, seal, fish, goldfish, salmon,
octopus, squid, crab, lobster, snail, turtle, frog, lizard, snake, crocodile, bird, chicken, rooster, duck, goose, swan,
turkey, owl, eagle, hawk, crow, raven, parrot, penguin, peacock, flamingo, pigeon, sparrow, insect, butterfly, moth,
bee, wasp, ant, fly, spider, scorpion, beetle, ladybird, worm,

tree, oak, pine, palm tree, bush, forest, jungle, flower, rose, tulip, sunflower, daisy, lily, orchid, grass, leaf,
mushroom, cactus, moss, garden, park, field, meadow, hill, mountain, volcano, valley, canyon, desert, dune, beach,
coast, cliff, island, sea, ocean, wave, river, stream, waterfall, lake, pond, swamp, ice, iceberg, glacier, snow, rain,
storm, lightning, cloud, fog, rainbow, wind, fire, flame, ash, lava, sun, moon, star, starburst, sparkle, asterisk,
planet, galaxy, comet, sky, sunrise, sunset, night, day, spring, summer, autumn, winter,

house, cottage, cabin, castle, palace, tower, skyscraper, bridge, tunnel, road, street, alley, square, market, shop,
supermarket, restaurant, cafe, hotel, school, university, library, museum, theatre, cinema, hospital, factory, farm,
barn, windmill, lighthouse, harbour, airport, railway station, stadium, swimming pool, playground, gym, office,
kitchen, bedroom, bathroom, living room, garage, cellar, attic, staircase, corridor, door, window, wall, roof, fence,
gate, fountain, ruins, cathedral, chapel, monastery, pyramid,

car, sports car, taxi, bus, truck, van, ambulance, police car, fire engine, motorcycle, scooter, bicycle, train, tram,
subway, airplane, jet, helicopter, rocket, spaceship, satellite, balloon, hot air balloon, parachute, kite, boat, ship,
sailing boat, submarine, canoe, ferry, tractor, crane, bulldozer, wheel, engine, tyre,

table, chair, sofa, bed, lamp, candle, mirror, clock, wall clock, hourglass, sand timer, vase, bottle, cup, glass,
plate, bowl, spoon, fork, pan, pot, kettle, oven, fridge, washing machine, vacuum cleaner, broom, bucket, soap, towel,
blanket, pillow, carpet, curtain, book, notebook, pen, pencil, brush, paper, envelope, box, basket, bag, suitcase,
backpack, umbrella, key, lock, hammer, saw, screwdriver, drill, nail, rope, ladder, scissors, needle and thread,
telephone, mobile phone, computer, laptop, keyboard, television, radio, camera, microphone, loudspeaker, headphones,
battery, light bulb, torch, magnifying glass, microscope, telescope, guitar, piano, violin, trumpet, drum, flute, ball,
football, basketball, tennis racket, golf ball, skateboard, skis, surfboard, toy, teddy bear, water pistol, toy gun,
puzzle, chess board, trophy, medal, gift, present, christmas tree, fireworks, balloon animal, tent, campfire,

bread, cake, cookie, pizza, hamburger, sandwich, sausage, steak, meat, cheese, egg, milk, butter, honey, sugar, salt,
soup, salad, rice, noodles, pasta, sushi, fruit, apple, pear, banana, orange, lemon, grapes, strawberry, cherry,
tomato, tomato sauce, ketchup, potato, carrot, onion, garlic, corn, chocolate, ice cream, candy, coffee, tea, juice,
water, lemonade, cola,

red, crimson, scarlet, ruby, blood red, orange colour, yellow, golden, green, emerald, lime, blue, navy, turquoise,
purple, violet, pink, brown, black, white, grey, silver, bright, dark, pale, colourful, transparent, striped, stripes,
dotted, checkered, plain, solid, outline, outlined, hollow, contour, circle, ring shape, disc, square shape, rectangle,
box shape, triangle, diamond, pentagon, hexagon, oval, spiral, line, arrow, heart shape, love symbol, plus sign,
half moon, star shape, cube, sphere, cone, cylinder, large, small, old, new, broken, wet, rough, smooth, shiny, soft
""".replace("\n", " ").split(",")
    if word.strip()
)
